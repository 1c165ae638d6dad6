"""A study that comes back from its mirror, in whole: where that is interrupted, the next launch does it again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from sweeper.errors import MirrorError, StoreError
from sweeper.mirror.copying import when
from sweeper.mirror.manifest import Entry, Manifest, latest, merged, part_file
from sweeper.mirror.remote import Remote
from sweeper.mirror.standing import Standing
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import study_names
from sweeper.units import size_text

_TRIES = 3  # a writer that is alive may delete a generation while it is read; its next is there then


def restore(paths: StudyPaths, url: str, announce: Callable[[str], None]) -> None:
    """Brings a study back from its mirror, if that has one; where the folder has one already, that is replaced.

    The files of several machines that shared a study come together, each as of the machine where it is newest.

    Raises:
        MirrorError: if the mirror cannot be read, or is another study's.
        StoreError: if the store has other studies, whose trials lie in the same files.
    """
    remote = Remote(url)
    for tries_left in reversed(range(_TRIES)):
        manifests = latest(remote)
        if not manifests:
            return
        _refuse_company(paths, manifests)
        try:
            _bring(paths, remote, manifests)
        except _GoneError:
            if not tries_left:
                raise
            continue
        break
    announce(_words(manifests, remote))


class _GoneError(MirrorError):
    """A part of a file is not there, or not what it was."""


def _refuse_company(paths: StudyPaths, manifests: list[Manifest]) -> None:
    """Databases are brought as a whole, so that nothing may be in those that are here."""
    home = paths.home
    if not any(manifest.has_trials for manifest in manifests):
        return
    here = set(study_names(home)) if home.optuna_file.is_file() else set()
    here |= {file.parent.name for file in home.studies.glob("*/config.yaml")}
    if others := sorted(here - {paths.name}):
        raise StoreError(
            f"a study comes back from its mirror into a store of its own, but that at {home.root} has "
            f"{', '.join(others[:5])}{', …' if len(others) > 5 else ''}; set SWEEPER_HOME or store.home=DIR to another "
            "folder"
        )


def _bring(paths: StudyPaths, remote: Remote, manifests: list[Manifest]) -> None:
    """Brings every file; last the trials, and the configuration, without which nothing goes on with them."""
    home, found = paths.home, merged(manifests)
    with_trials = [manifest for manifest in manifests if manifest.has_trials]
    standing = Standing.at(with_trials[0]) if with_trials else Standing.of(paths)
    replace(standing, is_restoring=True).keep(paths)
    last = [home.mlflow_file, home.optuna_file, paths.config]
    for file, (manifest, entry) in sorted(found.items()):
        target = target_of(home, file)
        if target in last or (_is_of_all(home, target) and target.exists()):
            continue
        fetch_file(remote, manifest, entry, target)
    for target in last:
        name = target.relative_to(home.root).as_posix()
        if name in found:
            fetch_file(remote, *found[name], target)
    replace(standing, is_restoring=False).keep(paths)


def _is_of_all(home: Home, target: Path) -> bool:
    """Whether it is knowledge of the store's, which may be newer here."""
    return target.is_relative_to(home.memory) or target.is_relative_to(home.pace)


def target_of(home: Home, name: str) -> Path:
    """Where a file of a manifest belongs.

    Raises:
        MirrorError: if that is outside of the store.
    """
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise MirrorError(
            f"a mirror has files of a store alone, but its manifest names {name!r}; nothing may come of it"
        )
    return home.root / name


def fetch_file(remote: Remote, manifest: Manifest, entry: Entry, target: Path) -> None:
    """Brings one file, whole or not at all, with the time that it had.

    Raises:
        MirrorError: if it is not there as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in _contents(remote, manifest, entry):
                file.write(part)
        if entry.mtime_ns:
            os.utime(temporary, ns=(entry.mtime_ns, entry.mtime_ns))
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _contents(remote: Remote, manifest: Manifest, entry: Entry) -> Iterator[bytes]:
    for sha256 in entry.parts:
        part = remote.read(part_file(manifest.writer, sha256))
        if part is None or hashlib.sha256(part).hexdigest() != sha256:
            what = "is not there" if part is None else "has another content than it had"
            raise _GoneError(f"a mirror must have every part of its files, but {sha256[:12]}… {what}: {remote.url}")
        yield part


def _words(manifests: list[Manifest], remote: Remote) -> str:
    newest, files = manifests[0], merged(manifests)
    size = size_text(sum(entry.size for _, entry in files.values()))
    return (
        f"{newest.study} is back from its mirror {remote.url} as it was at {when(newest)}, {len(files)} files, {size}. "
        "What it did later is done again, and what that cost is not in its ledger; bases are not mirrored"
    )
