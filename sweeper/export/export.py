"""Writes the best adapter as a folder that plain PEFT loads, with what is needed to use it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.config.teaching import CustomSection
from sweeper.custom import own
from sweeper.custom.sources import Sources
from sweeper.errors import ExportError
from sweeper.models import origin
from sweeper.paths import Home, StudyPaths, write_atomically
from sweeper.preflight import disk
from sweeper.preflight.disk import Need
from sweeper.search.advice import shortfall
from sweeper.search.views import StudyView, TrialView, view
from sweeper.units import MIB

MANIFEST = "sweeper.json"
CONFIG = "adapter_config.json"  # PEFT's name
CODE = "code"  # of a task of the study's own
TOKENIZER_BYTES = 32 * MIB  # more than the largest ones take
_VERSIONED = ("torch", "transformers", "peft", "bitsandbytes")


def export(home: Home, study: str, folder: Path, number: int | None, force: bool) -> dict[str, Any]:
    """Exports one trial's adapter, the best by default.

    The folder appears whole or not at all: PEFT's two files, the tokenizer with its chat template, the code of
    a task of the study's own, and a manifest with the prompt, the labels, the scores and the hash of every file.

    Returns:
        The manifest.

    Raises:
        ModelError: if the base is not the one that the study was begun with.
        ExportError: if there is nothing to export, or without `force`: if `folder` exists, or the best is of no use.
        StoreError: if there is no room for it.
    """
    seen = view(home, study)
    paths = home.study(study)
    config = check.load(paths)
    trial = chosen(seen, number) if number is not None else _best(seen, config, force)
    adapter = kept_adapter(seen, config, paths, trial)
    folder = folder.expanduser().absolute()
    if folder.exists() and not force:
        raise ExportError(f"the folder must not exist yet, but {folder} does; --force replaces it")
    is_ours = folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))
    if folder.exists() and not is_ours:
        raise ExportError(f"--force replaces an earlier export, but {folder} has no {MANIFEST}; choose another folder")

    known = origin.kept(paths)
    section = origin.pinned(config.model, known)
    test: dict[str, Any] = seen.attributes.get("test", {})
    is_tested = test.get("trial") == trial.number
    manifest: dict[str, Any] = {
        "sweeper": __version__,
        "study": study,
        "trial": trial.number,
        "params": trial.params,
        "model": section.model_dump(mode="json"),
        "base": known.as_dict() if known is not None else None,
        "prompt": config.prompt.model_dump(mode="json"),
        "task": config.task.model_dump(mode="json"),
        "long": config.data.long,
        "columns": config.data.columns.model_dump(mode="json"),
        "labels": seen.attributes["labels"],
        "data_sha256": seen.attributes["data_sha256"],
        "scores": {
            "validation": trial.metrics,
            "test": test["winner"] if is_tested else None,
            "test_rows": test["rows"] if is_tested else None,
        },
        "lora": config.trial_params(trial.params).model_dump(mode="json"),
        "versions": {name: version(name) for name in _VERSIONED},
    }
    code = own.kept(config, paths.code) if isinstance(config.task, CustomSection) else None
    _write(folder, adapter, manifest, section.model_dump(), home, code)
    return manifest


def kept_adapter(seen: StudyView, config: Config, paths: StudyPaths, trial: TrialView) -> Path:
    """The folder of a trial's adapter; raises ExportError where it is not kept."""
    adapter = paths.adapter(trial.number)
    if not adapter.is_dir():
        kept = ", ".join(map(str, seen.attributes.get("adapters", []))) or "none"
        raise ExportError(
            f"the adapter of trial {trial.number} must still be there, but only those of the best "
            f"{config.store.keep_adapters} trials are kept (store.keep_adapters): {kept}"
        )
    return adapter


def _best(seen: StudyView, config: Config, force: bool) -> TrialView:
    """The winner; where there is none, `force` takes the best of those that break a constraint."""
    problem = shortfall(seen, config)
    if problem is not None and not force:
        raise ExportError(
            f"what is exported must be of use: {problem} `sweeper best {seen.name}` says what to try next; --force "
            "exports the best there is all the same"
        )
    best = seen.best or next(iter(seen.infeasible), None)
    if best is None:
        raise ExportError(f"an export needs a complete trial, but {seen.name!r} has {seen.summary()}")
    return best


def chosen(seen: StudyView, number: int) -> TrialView:
    """The complete trial of that number; raises ExportError where it has no adapter of its own."""
    found = [trial for trial in seen.trials if trial.number == number]
    if not found:
        raise ExportError(f"{seen.name!r} has the trials 0 to {len(seen.trials) - 1}, but not {number}")
    if found[0].state != "COMPLETE":
        raise ExportError(f"only a complete trial has an adapter, but trial {number} is {found[0].state}")
    if found[0].same_as is not None:
        raise ExportError(
            f"trial {number} is trial {found[0].same_as} again and has no adapter of its own; export that"
        )
    return found[0]


def _write(
    folder: Path,
    adapter: Path,
    manifest: dict[str, Any],
    model: dict[str, Any],
    home: Home,
    code: Sources | None = None,
) -> None:
    from sweeper.config.schema import ModelSection
    from sweeper.config.teaching import PromptSection
    from sweeper.data.chat import Chat
    from sweeper.models.base import load_tokenizer, source

    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        temporary.rmdir()
    except OSError as error:
        raise ExportError(
            f"the folder to export to must be one that can be written, but {folder}: {error.strerror}"
        ) from None
    taken = sum(file.stat().st_size for file in adapter.iterdir()) + TOKENIZER_BYTES
    disk.check(
        disk.rooms([Need("the adapter and its tokenizer", folder.parent, taken, "export to another disk (--to)")])
    )
    try:
        shutil.copytree(adapter, temporary)
        section = ModelSection.model_validate(model)
        tokenizer = load_tokenizer(section, home)
        chat = Chat(tokenizer, PromptSection.model_validate(manifest["prompt"]))
        if chat.has_template:  # as it was trained with: of the study, with its arguments and without today's date
            tokenizer.chat_template = chat.template
        tokenizer.save_pretrained(temporary)
        # Where the base is now: the store may have moved since the adapter was trained.
        config = json.loads((temporary / CONFIG).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = source(section, home)
        config["revision"] = section.revision
        write_atomically(temporary / CONFIG, json.dumps(config, indent=2))
        if code is not None:
            code.keep(temporary / CODE)
        manifest["sha256"] = {
            file.relative_to(temporary).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        write_atomically(temporary / MANIFEST, json.dumps(manifest, indent=2))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
