"""A generation of a mirror: which files there are, and the parts that each is made of."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.errors import MirrorError
from sweeper.mirror.remote import Remote

MARK = "mirror.json"
FORMAT = 1
_WRITERS = "writers"
_NAME = re.compile(r"(\d{8,})-([0-9a-f]{32})\.json")


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        mtime_ns: when it was changed, by the clock of the machine that wrote it; 0: of a database, which always may be.
        parts: the SHA-256 of each of its parts, in their order.
    """

    size: int
    mtime_ns: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What one writer had at one moment.

    Attributes:
        writer: whose it is.
        generation: counts the copies of a study, over all machines that went on with it.
        token: tells it from another generation of the same count.
        taken_s: when the copy was begun, in seconds since 1970: what came later is not in it.
        version: of sweeper.
        has_trials: whether the study's trials are in it, or in a server that others reach too.
        files: by their paths in the store's folder.
    """

    study: str
    study_id: str
    writer: str
    generation: int
    token: str
    taken_s: float
    version: str
    has_trials: bool
    files: dict[str, Entry]

    @property
    def file(self) -> str:
        return f"{manifests_of(self.writer)}/{self.generation:08d}-{self.token}.json"

    @property
    def parts(self) -> set[str]:
        return {part for entry in self.files.values() for part in entry.parts}

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Reads what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: if it is not whole.
            MirrorError: if a later version of sweeper wrote it.
        """
        values: dict[str, Any] = json.loads(text)
        if values.pop("format") != FORMAT:
            raise MirrorError(
                f"a mirror must be of format {FORMAT}, but one of its manifests is of another, by sweeper "
                f"{values.get('version')}; use that version"
            )
        files = {name: Entry(**{**entry, "parts": tuple(entry["parts"])}) for name, entry in values["files"].items()}
        return cls(**{**values, "files": files})


def manifests_of(writer: str) -> str:
    return f"{_WRITERS}/{writer}/manifests"


def part_file(writer: str, sha256: str) -> str:
    return f"{parts_of(writer)}/{sha256}"


def parts_of(writer: str) -> str:
    return f"{_WRITERS}/{writer}/parts"


def generations(remote: Remote, writer: str) -> list[str]:
    """The manifests of a writer, the newest first; there may be one that was not written to its end."""
    names = [name for name in remote.sizes(manifests_of(writer)) if _NAME.fullmatch(name)]
    return [f"{manifests_of(writer)}/{name}" for name in sorted(names, reverse=True)]


def newest(remote: Remote, writer: str) -> Manifest | None:
    """The last generation of a writer that is whole."""
    for name in generations(remote, writer):
        if (text := remote.read(name)) is None:
            continue  # a newer one has taken its place
        try:
            return Manifest.from_json(text)
        except (ValueError, KeyError, TypeError):
            continue  # whoever wrote it was killed meanwhile
    return None


def latest(remote: Remote) -> list[Manifest]:
    """The last generation of each writer, the most recent first."""
    found = [newest(remote, writer) for writer in remote.sizes(_WRITERS)]
    return sorted((one for one in found if one is not None), key=lambda one: one.taken_s, reverse=True)


def merged(manifests: list[Manifest]) -> dict[str, tuple[Manifest, Entry]]:
    """Every file of several writers, each as of whom it is newest at; of like ones as of the first."""
    found: dict[str, tuple[Manifest, Entry]] = {}
    for manifest in manifests:
        for name, entry in manifest.files.items():
            if name not in found or entry.mtime_ns > found[name][1].mtime_ns:
                found[name] = manifest, entry
    return found


@dataclass(frozen=True)
class Owner:
    """Whose mirror it is."""

    study: str
    study_id: str


def owner(remote: Remote) -> Owner | None:
    """Whose mirror it is; None where there is none yet.

    Raises:
        MirrorError: if that cannot be read.
    """
    text = remote.read(MARK)
    if text is None:
        return None
    try:
        values = json.loads(text)
        return Owner(str(values["study"]), str(values["study_id"]))
    except (ValueError, KeyError, TypeError) as error:
        raise MirrorError(
            f"a mirror says in {MARK} whose it is, but that of {remote.url} cannot be read; store.mirror=URL of an "
            "empty place begins another"
        ) from error


def claim(remote: Remote, owned: Owner) -> None:
    """Says whose mirror it is, before anything else is written."""
    remote.write(MARK, json.dumps({"format": FORMAT, **asdict(owned)}).encode())
