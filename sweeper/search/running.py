"""Who runs a study: the locks that its launcher and its workers hold, and what they note of themselves.

A lock says whether something runs, since the operating system drops it with the process. The note beside
it says which process that is; alone it says nothing, since a process that is killed leaves it behind.
Each worker has a lock of its own, and all share another one, which keeps out whoever needs the study for itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sweeper.errors import StoreError
from sweeper.paths import StudyPaths, write_atomically
from sweeper.search.leases import Holder

_POLL_S = 0.05
LOOK_S = 0.5  # how long one who takes a lock waits for those who only look whether it is held


@dataclass(frozen=True)
class Note:
    """What a process says of itself."""

    holder: Holder
    since: str

    def __str__(self) -> str:
        return f"process {self.holder.pid} on {self.holder.host} since {self.since}"


@dataclass(frozen=True)
class Running:
    """What holds a study.

    Attributes:
        role: launcher; or worker, where that has no launcher here, or none any more.
        note: None where the holder left none: it is of an older version, or no launcher and no worker.
    """

    role: str
    note: Note | None
    index: int | None = None  # of a worker

    def __str__(self) -> str:
        return f"its {self.role}, {self.note}" if self.note else "a process that left no note of itself"


def note(file: Path) -> None:
    """Writes what this process is; for the holder of the lock beside `file`."""
    about = {**asdict(Holder.this_process()), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    write_atomically(file, json.dumps(about))


def noted(file: Path) -> Note | None:
    """Reads a note; None where there is none that can be read."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        since = str(about.pop("since"))
        return Note(Holder(str(about["host"]), str(about["boot"]), int(about["pid"]), float(about["started_s"])), since)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock; looking needs no right to write, and leaves nothing behind."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def running(paths: StudyPaths) -> Running | None:
    """What holds a study; None where nothing does."""
    if is_held(paths.launcher_lock):
        return Running("launcher", living(paths.holder))
    for index in working(paths):
        return Running("worker", living(paths.worker_holder(index)), index)
    if is_held(paths.work_lock):  # `sweeper rerun` and the like
        return Running("worker", None)
    return None


def working(paths: StudyPaths) -> list[int]:
    """The workers of a study that run here."""
    return [index for index in paths.worker_indices() if is_held(paths.worker_lock(index))]


def living(file: Path) -> Note | None:
    """The note of whoever holds the lock beside it; None where it is of an earlier holder."""
    found = noted(file)
    return None if found is None or found.holder.is_gone else found


@contextmanager
def sharing(paths: StudyPaths, timeout_s: float) -> Iterator[None]:
    """Works on a study beside its other workers while the block runs.

    Raises:
        Timeout: if something has the study for itself for longer.
    """
    descriptor = os.open(paths.work_lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise Timeout(str(paths.work_lock))
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def idle(paths: StudyPaths) -> Iterator[None]:
    """Keeps launchers and workers of a study out while the block runs.

    Raises:
        StoreError: if one of them runs, or the study's folder cannot be written.
    """
    with ExitStack() as held:
        for file in (paths.launcher_lock, paths.work_lock):
            try:
                held.enter_context(FileLock(file).acquire(timeout=LOOK_S))
            except Timeout:
                refuse_if_running(paths)
                raise StoreError(f"{paths.name!r} was held until now; run the same command again") from None
            except OSError as error:
                raise StoreError(
                    f"{paths.root} must be a folder that can be written, but it is not: {error.strerror}"
                ) from error
        yield


def refuse_if_running(paths: StudyPaths) -> None:
    """Raises StoreError where a launcher or a worker of the study runs."""
    found = running(paths)
    if found is not None:
        raise StoreError(
            f"nothing of a study may run meanwhile, but {paths.name!r} is held by {found}; "
            f"wait for it, or `sweeper stop {paths.name}`"
        )
