"""The licence of the base, which goes with whatever is made of it."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from sweeper.config.schema import ModelSection
from sweeper.errors import ModelError
from sweeper.models import origin
from sweeper.models.origin import BUNDLED

_FILES = re.compile(r"(?i)(licen[cs]e|notice|use_policy|copying)([._-].*)?")
_PATTERNS = ["LICEN*", "licen*", "License*", "NOTICE*", "notice*", "USE_POLICY*", "COPYING*", "README.md"]
# What licences ask of whoever passes on what is made of a model; by the id of the Hub.
_DUTIES = {
    "apache-2.0": ("Pass on the licence and any NOTICE, and say that the weights were changed.",),
    "mit": ("Pass on the licence and its copyright notice.",),
    "gemma": (
        "Pass on the Gemma Terms of Use and say that the weights were changed.",
        "The restrictions of the Gemma Prohibited Use Policy hold for it too.",
    ),
    "llama2": (
        "Pass on the Llama 2 Community License, and the line “Llama 2 is licensed under the LLAMA 2 Community License, "
        "Copyright (c) Meta Platforms, Inc. All Rights Reserved.” in a NOTICE.",
    ),
}
_LLAMA_3 = (
    "Show “Built with Meta Llama 3” or “Built with Llama”, as the licence of this version says, where it is used.",
    "Its name must begin with “Llama” (“Llama 3” for that version) if it is passed on: rename the folder.",
    "Pass on the Community License and its NOTICE; the Acceptable Use Policy holds for it too.",
)


@dataclass(frozen=True)
class Licence:
    """What is known of a base's licence.

    Attributes:
        id: as the Hub has it, such as `apache-2.0`; None where nothing says it.
        name: of one that the Hub has no id for.
        files: that were copied.
        duties: what it asks of whoever passes the export on.
    """

    id: str | None
    name: str | None
    files: tuple[str, ...]
    duties: tuple[str, ...]


def copy(folder: Path, section: ModelSection) -> Licence:
    """Copies the base's LICENSE and NOTICE beside the weights, and says what it asks for."""
    if section.path is not None and section.path.startswith(BUNDLED):
        own = _own()
        for file in own:
            shutil.copyfile(file, folder / file.name)
        return _of("apache-2.0", None, tuple(file.name for file in own))
    files = _files(section)
    known, name = _stated(files)
    copied = []
    for file in files:
        if _FILES.fullmatch(file.name):
            shutil.copyfile(file, folder / file.name)
            copied.append(file.name)
    return _of(known, name, tuple(sorted(copied)))


def _own() -> list[Path]:
    """sweeper's own licence, which is that of the bundled models: of the installed package, or of a checkout."""
    try:
        listed = importlib.metadata.files("sweeper") or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    places = [Path(str(file.locate())) for file in listed if file.name == "LICENSE"]
    places.append(Path(str(resources.files("sweeper"))).parent / "LICENSE")
    return [place for place in places if place.is_file()][:1]


def _of(known: str | None, name: str | None, files: tuple[str, ...]) -> Licence:
    short = (name if known in (None, "other") else known) or ""
    duties = _LLAMA_3 if re.fullmatch(r"llama-?3.*", short) else _DUTIES.get(short, ())
    return Licence(known, name, files, duties)


def _files(section: ModelSection) -> list[Path]:
    """The base's licence files and its card, as far as they are here or can be had."""
    try:
        source = origin.find(section)
    except ModelError:  # gone since: what is exported does not need it
        return []
    if source.kind == "gguf":
        listed = importlib.metadata.files(section.gguf_package or "") or []
        found = [Path(str(file.locate())) for file in listed]
    elif source.path is not None:
        found = list(source.path.iterdir())
    else:
        try:
            place = snapshot_download(str(section.path), revision=section.revision, allow_patterns=_PATTERNS)
        except (OSError, ValueError, HfHubHTTPError):  # offline, or not cached: the card says that it is not known
            return []
        found = list(Path(place).iterdir())
    return [file for file in found if file.is_file() and (_FILES.fullmatch(file.name) or file.name == "README.md")]


def _stated(files: list[Path]) -> tuple[str | None, str | None]:
    """The licence that the head of a model's card names."""
    card = next((file for file in files if file.name == "README.md"), None)
    if card is None:
        return None, None
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        stated = yaml.safe_load(head[1]) if head is not None else None
    except yaml.YAMLError:
        return None, None
    if not isinstance(stated, dict):
        return None, None
    known, name = stated.get("license"), stated.get("license_name")
    return (str(known) if known else None), (str(name) if name else None)
