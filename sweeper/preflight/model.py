"""The base of a study before anything is loaded: which one it is, whether it may be had, and whether there is room.

`survey` looks; `admit` refuses what cannot work, and keeps what the base is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.schema import Config, ModelSection
from sweeper.errors import ModelError, StoreError
from sweeper.models import contents, copies, hub, origin
from sweeper.models.origin import Origin, Source
from sweeper.paths import Home, StudyPaths
from sweeper.preflight import disk
from sweeper.preflight.architecture import Widths
from sweeper.preflight.disk import Need, Room
from sweeper.units import size_text


@dataclass(frozen=True)
class Survey:
    """What a study's base is, and what it will take on the disk."""

    origin: Origin
    rooms: list[Room]
    notes: list[str]


def survey(config: Config, home: Home, known: Origin | None = None) -> Survey:
    """Looks at a study's base.

    Args:
        known: what it was when the study began; None: it begins now.

    Raises:
        ModelError: if it cannot be had, cannot be loaded, or is another one.
    """
    section = origin.pinned(config.model, known)
    source = origin.find(section)
    notes, needs = [], list[Need]()
    model: Mapping[str, Any] | None = section.config
    if source.path is None:
        found = hub.snapshot(config.model, known.commit if known else None)
        made = Origin("hub", str(section.path), found.size_bytes, config.model.revision, found.commit)
        model = found.config
        needs.append(_download(found, made))
        notes += _of_hub(config, found, is_new=known is None)
    else:
        made = origin.of_files(section, source)
        if source.kind == "gguf":
            needs.append(_conversion(source.path, origin.conversion(source.path, section.name, home.models)))
        else:
            model = _of_folder(config, source.path)
    needs += disk.of_study(config, home, model)
    if model is not None:
        pinned = section.model_copy(update={"revision": made.commit}) if made.commit else section
        needs = disk.with_copy(needs, _quantised(pinned, source, model, home))
    return Survey(known or made, disk.rooms(needs), notes)


def admit(config: Config, paths: StudyPaths, goes_on: bool) -> list[str]:
    """Surveys a study's base before a launch, and keeps what it is.

    Args:
        goes_on: the study has measured something; its base is then the one that it was begun with.

    Returns:
        What a person should know, a line each.

    Raises:
        ModelError: if the base cannot be had, cannot be loaded, or is another one.
        StoreError: if there is no room on a disk.
    """
    known = origin.kept(paths) if goes_on else None
    found = survey(config, paths.home, known)
    notes = [*found.notes, *disk.check(found.rooms)]
    if known is None:
        origin.keep(found.origin, paths)
    if goes_on and known is None and found.origin.commit is not None:
        notes.append("model.revision: the study was begun before its commit was kept; from now on it is this one")
    return notes


def foresee(config: Config, home: Home) -> tuple[list[Room], list[str]]:
    """The disks that a launch would write to, and what it would say of the base and of them; refuses nothing."""
    try:
        found = survey(config, home, origin.of_study(config.model, home.study(config.study.name)))
    except (ModelError, StoreError) as error:  # the second where what is kept of the base is damaged
        return disk.rooms(disk.of_study(config, home, config.model.config)), [f"a launch here would stop: {error}"]
    try:
        return found.rooms, [*found.notes, *disk.check(found.rooms)]
    except StoreError as error:
        return found.rooms, [*found.notes, f"a launch here would stop: {error}"]


def _of_hub(config: Config, found: hub.Snapshot, is_new: bool) -> list[str]:
    asked = config.model.revision or "the main branch"
    if is_new:
        size = size_text(found.missing_bytes)
        rest = f"{size} of {size_text(found.size_bytes)} to download" if found.missing_bytes else "all of it is cached"
        at = "" if asked == found.commit else f" ({asked})"
        return [f"model.path: {config.model.path} at commit {found.commit}{at}, {rest}"]
    if found.moved is None:
        return []
    return [
        f"model.revision: {asked} of {config.model.path} is at {found.moved[:12]} by now; the study goes on with the "
        f"commit that it was begun with, {found.commit[:12]}"
    ]


def _of_folder(config: Config, folder: Path) -> dict[str, Any]:
    """The configuration of a model in a folder.

    Raises:
        ModelError: if it cannot be loaded from there.
    """
    names = [file.name for file in folder.iterdir() if file.is_file()]
    model = contents.read(folder / origin.CONFIG) if origin.CONFIG in names else {}
    lacking = [name for name in contents.parts(folder) if name not in names]
    if lacking:
        raise ModelError(f"model.path: all parts of {origin.INDEX} must be there, but {folder} lacks {lacking[0]}")
    if reason := contents.refusal(str(folder), names, model, config.model.trust_remote_code):
        raise ModelError(reason)
    return model


def _download(found: hub.Snapshot, made: Origin) -> Need:
    remedy = "have the cache elsewhere (HF_HOME=DIR)"
    return Need(f"download of {made.path}", hub.cache_folder(), found.missing_bytes, remedy)


def _quantised(section: ModelSection, source: Source, model: Mapping[str, Any], home: Home) -> Need:
    """What a worker writes once it has quantised the base for the first time."""
    folder = source.path
    if source.kind == "gguf" and folder is not None:
        folder = origin.conversion(folder, section.name, home.models)
    widths = Widths.of(model)
    is_none = (
        section.quant == "none"
        or section.trust_remote_code
        or "quantization_config" in model
        or widths.weights < copies.WORTH_VALUES
        or ((folder is None or folder.is_dir()) and copies.is_known(section, folder, home.models))
    )
    other_bytes = 4 if section.dtype in ("auto", "float32") else 2  # auto is float32 on a CPU
    size = 0 if is_none else copies.size_bytes(widths.weights, widths.outside, other_bytes)
    return Need("quantised copy of the base", home.models, size, "have the store elsewhere (store.home=DIR)")


def _conversion(file: Path, folder: Path) -> Need:
    """What a GGUF file takes as a folder of 16-bit weights, where it has not been converted yet.

    Raises:
        ModelError: if it cannot be read.
    """
    remedy = "have the store elsewhere (store.home=DIR)"
    if (folder / origin.CONFIG).is_file():
        return Need("converted model", folder, 0, remedy)
    origin.require_gguf(file)
    from gguf import GGUFReader

    values = sum(int(tensor.n_elements) for tensor in GGUFReader(str(file)).tensors)
    return Need("converted model", folder, 2 * values, remedy)
