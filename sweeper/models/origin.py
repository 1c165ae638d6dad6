"""Which base a study has, exactly: a commit of the Hub, or the files of a folder.

It is found out before anything is downloaded, and kept in the study's folder: whoever loads the base of a study
afterwards (a worker, `rerun`, `export`, `predict`) gets that one, or hears that it is not there any more. Nothing here
loads torch or transformers.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from sweeper.config.schema import ModelSection
from sweeper.errors import ModelError, StoreError
from sweeper.paths import StudyPaths, write_atomically
from sweeper.units import MIB

BUNDLED = "bundled:"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
Kind = Literal["hub", "folder", "gguf"]
# How the names of the files begin that transformers reads of a model beside its weights and its code.
_READ = (
    *("config", "generation_config", "model.safetensors.index", "tokenizer", "special_tokens", "added_tokens"),
    *("vocab", "merges", "spiece", "sentencepiece", "chat_template", "additional_chat_templates"),
)
_FORMS = (".json", ".jinja", ".model", ".txt")
_WHOLE_BYTES = 64 * MIB  # a larger file is known by its size and by some parts of it: 16 GB are not read for that
_PARTS, _PART_BYTES = 64, 2**16


@dataclass(frozen=True)
class Source:
    """Where `model.path` leads.

    Attributes:
        path: the folder, or the GGUF file; None: the model is on the Hub.
    """

    kind: Kind
    path: Path | None


def find(section: ModelSection) -> Source:
    """Where the model of a configuration is.

    Raises:
        ModelError: if it must be on this machine, and is not.
    """
    assert section.path is not None  # checked with the configuration
    if section.path.startswith(BUNDLED):
        name = section.path.removeprefix(BUNDLED)
        bundled = resources.files("sweeper.models") / name / "weights"
        if not bundled.is_dir():
            raise ModelError(f"model.path: there is no bundled model {name!r}; bundled: tiny")
        return Source("folder", Path(str(bundled)))
    if section.gguf_package and (file := _packaged_gguf(section.gguf_package)):
        return Source("gguf", file)
    folder = Path(section.path).expanduser()
    if folder.is_dir():
        return Source("folder", folder.resolve())
    if section.path.startswith(("/", ".", "~")):
        raise ModelError(f"model.path: there is no folder {folder}")
    return Source("hub", None)


def conversion(file: Path, name: str, models: Path) -> Path:
    """Where a GGUF file lies as a folder of safetensors: by its content, for another may have the model's name."""
    return models / f"{name}-{_mark(file).partition(' ')[2][:12]}"


def _packaged_gguf(package: str) -> Path | None:
    """The GGUF file of an installed PyPI package, or None where it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return found[0] if found else None


def require_gguf(file: Path) -> None:
    """Raises ModelError where a GGUF file cannot be read."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"reading {file.name} needs the package gguf: pip install 'sweeper[gguf]'")


@dataclass(frozen=True)
class Origin:
    """One base, and no other.

    Attributes:
        path: what `model.path` says; of a GGUF file, its name.
        revision: what `model.revision` asked the Hub for; None: the main branch.
        commit: of the Hub, what that was when the study began.
        size_bytes: of what is read of it.
        files: of a folder or a GGUF file, a mark of each file's content.
    """

    kind: Kind
    path: str
    size_bytes: int
    revision: str | None = None
    commit: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        return f"{self.path} at commit {self.commit}" if self.commit else self.path


def of_files(section: ModelSection, source: Source) -> Origin:
    """What lies on this machine, by the content of its files."""
    assert source.path is not None
    assert section.path is not None
    if source.kind == "gguf":
        found, path = [source.path], source.path.name
    else:
        names = [file.name for file in source.path.iterdir() if file.is_file()]
        found, path = [source.path / name for name in read_of(names)], section.path
    size = sum(file.stat().st_size for file in found)
    return Origin(source.kind, path, size, files={file.name: _mark(file) for file in sorted(found)})


def read_of(names: Iterable[str]) -> list[str]:
    """Which files of a model are read: its configuration, its tokenizer, and its weights in safetensors."""
    known = {name for name in names if "/" not in name and not name.startswith(".")}
    read = {name for name in known if (name.startswith(_READ) and name.endswith(_FORMS)) or name.endswith(".py")}
    return sorted(read | set(weights_of(known)))


def weights_of(names: Iterable[str]) -> list[str]:
    """The files that transformers takes a model's weights from; one whole file wins over parts."""
    known = set(names)
    if "model.safetensors" in known:
        return ["model.safetensors"]
    return sorted(name for name in known if name.startswith("model-") and name.endswith(".safetensors"))


def kept(paths: StudyPaths) -> Origin | None:
    """The base that a study has; None for one that was begun before that was kept.

    Raises:
        StoreError: if its file cannot be read.
    """
    try:
        return Origin(**json.loads(paths.model.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"what a study's base is must be JSON as it was written, but {paths.model}: {error}") from None


def keep(origin: Origin, paths: StudyPaths) -> None:
    """Writes down what a study's base is."""
    write_atomically(paths.model, json.dumps(origin.as_dict(), indent=2))


def of_study(section: ModelSection, paths: StudyPaths) -> Origin | None:
    """The commit that a study has, where the same model is asked for; None otherwise."""
    known = kept(paths)
    return known if known is not None and known.commit is not None and known.path == section.path else None


def pinned(section: ModelSection, known: Origin | None) -> ModelSection:
    """The section that loads `known` and nothing else; as it is where nothing is known.

    Raises:
        ModelError: if the base is not what it was.
    """
    if known is None:
        return section
    if known.commit is not None:
        section = section.model_copy(update={"gguf_package": None, "revision": known.commit})
    if changed := _differences(section, known):
        raise ModelError(
            f"model.path: the base must be the one that the study was begun with, {known.in_words()}, but "
            f"{changed}; put that back, or study.name=NEW starts another"
        )
    return section


def _differences(section: ModelSection, known: Origin) -> str:
    """In what a base is not the known one; empty where it is."""
    source = find(section)
    if source.kind != known.kind:
        where = {"hub": "is on the Hub", "folder": f"is the folder {source.path}", "gguf": f"is {source.path}"}
        return f"the one that there is now {where[source.kind]}"
    if source.path is None:
        return ""
    now = of_files(section, source).files
    names = [name for name in sorted({*known.files, *now}) if known.files.get(name) != now.get(name)]
    words = [f"{name} ({_change(known.files.get(name), now.get(name))})" for name in names]
    return f"in {source.path} it differs in {', '.join(words)}" if words else ""


def _change(was: str | None, now: str | None) -> str:
    if was is None or now is None:
        return "gone" if now is None else "new"
    sizes = [mark.partition(" ")[0] for mark in (was, now)]
    return "other content" if sizes[0] == sizes[1] else f"{sizes[0]} bytes, now {sizes[1]}"


def _mark(file: Path) -> str:
    """A file's size and a hash of its content; of a large file, of parts that are spread over it."""
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        if size <= _WHOLE_BYTES:
            digest.update(opened.read())
        else:
            for part in range(_PARTS):
                opened.seek(part * (size - _PART_BYTES) // (_PARTS - 1))
                digest.update(opened.read(_PART_BYTES))
    return f"{size} {digest.hexdigest()}"
