"""One copy after another of a study to its mirror: what is new is uploaded, what is gone goes there too."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import sweeper
from sweeper.errors import MirrorError
from sweeper.mirror.manifest import (
    Entry,
    Manifest,
    Owner,
    claim,
    generations,
    newest,
    owner,
    part_file,
    parts_of,
)
from sweeper.mirror.remote import Remote
from sweeper.mirror.snapshot import Snapshot, Taken
from sweeper.mirror.standing import Standing
from sweeper.paths import StudyPaths
from sweeper.tracking.place import identify
from sweeper.units import MIB

PART_BYTES = 8 * MIB  # of a file that grows, or a database, only the parts that changed are uploaded again


@dataclass(frozen=True)
class Copied:
    """What one copy did."""

    files: int  # that are in it
    uploads: int  # parts of files that the mirror did not have
    uploaded_bytes: int


class Copier:
    """Writes the generations of one study's folder.

    Attributes:
        last: what the mirror has of it.
    """

    def __init__(self, paths: StudyPaths, remote: Remote) -> None:
        self._paths, self._remote = paths, remote
        self.last: Manifest | None = None
        self._has_looked = False
        self._there: set[str] = set()  # the parts that the mirror has
        self._unneeded: set[str] = set()
        self._is_tidy = False
        self._uploads, self._uploaded_bytes = 0, 0

    def copy(self) -> Copied:
        """Makes a generation of what there is now.

        Raises:
            MirrorError: if the mirror cannot be reached, or another folder of the study has gone on with it.
            OSError, StoreError: if the study's own files cannot be read, or there is no room to hold them.
        """
        self._uploads = self._uploaded_bytes = 0
        standing = self._admitted()
        before = self.last.files if self.last is not None else {}
        known = {name: entry for name, entry in before.items() if self._there.issuperset(entry.parts)}
        snapshot, taken_s = Snapshot(self._paths, known), time.time()
        try:
            snapshot.take()
            files = {
                name: Entry(taken.size, taken.mtime_ns, self._upload(standing.writer, taken))
                if taken.held is not None
                else known[name]
                for name, taken in snapshot.files.items()
            }
        finally:
            snapshot.drop()
        if files != before:
            self._write(standing.next(), files, taken_s, snapshot.has_trials)
        self._tidy()
        return Copied(len(files), self._uploads, self._uploaded_bytes)

    def _admitted(self) -> Standing:
        """Where this folder stands; whoever has gone on from its copy elsewhere has the mirror from then on."""
        standing = Standing.of(self._paths)
        if not self._paths.mirror.is_file():
            standing.keep(self._paths)  # or what is uploaded before an interruption would be nobody's
        made = generations(self._remote, standing.writer)
        if self.last is None or made[:1] != [self.last.file]:
            self.last = newest(self._remote, standing.writer)
        if self.last is not None and standing.is_behind(self.last):
            raise MirrorError(
                f"one folder at a time goes on with a study's mirror, but another one has, at {when(self.last)}: "
                f"{self._remote.url}; stop the study here or there"
            )
        if not self._has_looked:
            self._look_at_parts(standing.writer)
        return standing

    def _look_at_parts(self, writer: str) -> None:
        """Which parts of the last generation are there; others were for one that was never finished."""
        sizes = self._remote.sizes(parts_of(writer))
        files = self.last.files.values() if self.last is not None else []
        wanted = {part: size for entry in files for part, size in zip(entry.parts, _sizes(entry.size), strict=True)}
        self._there = {part for part, size in wanted.items() if sizes.get(part) == size}
        self._unneeded = sizes.keys() - wanted.keys()
        self._has_looked = True

    def _upload(self, writer: str, taken: Taken) -> tuple[str, ...]:
        """Uploads what the mirror does not have of a file; returns its parts."""
        assert taken.held is not None
        parts = []
        with taken.held.open("rb") as file:
            for size in _sizes(taken.size):
                part = file.read(size)
                sha256 = hashlib.sha256(part).hexdigest()
                if sha256 not in self._there:
                    self._remote.write(part_file(writer, sha256), part)
                    self._there.add(sha256)
                    self._uploads += 1
                    self._uploaded_bytes += len(part)
                parts.append(sha256)
        return tuple(parts)

    def _write(self, standing: Standing, files: dict[str, Entry], taken_s: float, has_trials: bool) -> None:
        """Writes the manifest, which makes it a generation."""
        name, study_id = self._paths.name, identify(self._paths)
        if owner(self._remote) is None:
            claim(self._remote, Owner(name, study_id))
        manifest = Manifest(
            name,
            study_id,
            standing.writer,
            standing.generation,
            standing.token,
            taken_s=taken_s,
            version=sweeper.__version__,
            has_trials=has_trials,
            files=files,
        )
        standing.keep(self._paths)  # first: a folder that is ahead of its mirror may go on with it, one behind may not
        self._remote.write(manifest.file, manifest.to_json().encode())
        self.last = manifest
        self._is_tidy = False

    def _tidy(self) -> None:
        """Deletes what only earlier generations had, or one that was never finished."""
        gone = (self._there | self._unneeded) - self.last.parts if self.last is not None else set()
        if self.last is None or (self._is_tidy and not gone):
            return
        writer = self.last.writer
        old = [one for one in generations(self._remote, writer) if one != self.last.file]
        self._remote.delete([*old, *(part_file(writer, part) for part in gone)])
        self._there, self._unneeded, self._is_tidy = self._there - gone, set(), True


def _sizes(size: int) -> list[int]:
    """Of the parts of a file of that size."""
    whole, rest = divmod(size, PART_BYTES)
    return [PART_BYTES] * whole + ([rest] if rest else [])


def when(manifest: Manifest) -> str:
    """The time of a generation, for a person."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.taken_s))
