"""What waits to be done to a study's runs: in files of the study's folder, or in memory where nothing must outlast it.

A worker's spool is a folder of files, a line for each operation, the oldest file first. What is given is added to the
last file before anything else happens to it, so that a killed process loses none of it; a file goes when the store has
taken all of it. Whoever holds the lock beside the folder is alive; what another worker left behind is taken over.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

from filelock import FileLock, Timeout

from sweeper.disk import Lines
from sweeper.errors import HeldError, number_of
from sweeper.paths import StudyPaths
from sweeper.tracking.operation import Operation

logger = logging.getLogger(__name__)
FILE_BYTES = 1024**2  # of a file, before the next one begins: as much is held in memory, and done again after a kill
LOCK_S = 5.0  # how long a predecessor that ends may take to let go


class Waiting(ABC):
    """A queue of operations; the writer's thread takes from it while others add.

    Attributes:
        found: how many operations earlier processes left.
        outlasts: whether what waits is there after the process has ended.
    """

    found = 0
    outlasts: bool

    @abstractmethod
    def add(self, operation: Operation) -> None:
        """Puts one behind all others."""

    @abstractmethod
    def first(self) -> list[Operation]:
        """The oldest ones, as many as are handled at once; what is added from now on comes behind them."""

    @abstractmethod
    def drop_first(self) -> None:
        """Forgets what `first` returned: the store has it."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many wait, or may have to be done again."""

    def copied(self, name: str) -> Path:
        """Where a copy is that an operation has."""
        return Path(name)

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Lets go; what waits stays for whoever comes next, where it outlasts."""


class Held(Waiting):
    """In memory."""

    outlasts = False

    def __init__(self) -> None:
        self._first: list[Operation] = []
        self._further: list[Operation] = []

    def add(self, operation: Operation) -> None:
        self._further.append(operation)

    def first(self) -> list[Operation]:
        if not self._first:
            self._first, self._further = self._further, []
        return self._first

    def drop_first(self) -> None:
        self._first = []

    @property
    def count(self) -> int:
        return len(self._first) + len(self._further)


class Spool(Waiting):
    """In a folder of files.

    Args:
        folder: where all spools of the study are.
        name: of this one, such as `worker-0`.

    Raises:
        HeldError: if another process has it.
    """

    outlasts = True

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / f"{name}.lock")
        try:
            self._lock.acquire(timeout=LOCK_S)
        except Timeout:
            raise HeldError(f"one process writes {self._folder}, but another one has it; stop it first") from None
        self._folder.mkdir(exist_ok=True)  # now: another one may have taken over what was in it
        for other in sorted(folder.glob("*/")):
            if other != self._folder:
                self._adopt(other)
        self._files = [(file, _count(file)) for file in sorted(self._folder.glob("*.jsonl"))]
        self.found = self.count
        self._open: Lines | None = None  # the last file, while it is added to
        self._size = 0

    def _adopt(self, other: Path) -> None:
        """Takes over what a worker left that is gone: by their names, the files go where they belong in time."""
        lock = FileLock(f"{other}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return  # it is alive, and does it itself
        with lock:
            if not other.is_dir():  # a third one was faster
                return
            for file in sorted(other.iterdir()):
                os.replace(file, self._folder / file.name)
            other.rmdir()

    def add(self, operation: Operation) -> None:
        lines = self._open if self._open is not None else self._begin()
        size = lines.add(operation.as_line())
        file, count = self._files[-1]
        self._files[-1] = file, count + 1
        self._size += size
        if self._size >= FILE_BYTES:
            self._end()

    def _begin(self) -> Lines:
        """A file whose name is behind all others', whatever the clock says."""
        last = int(self._files[-1][0].stem) if self._files else 0
        file = self._folder / f"{max(time.time_ns(), last + 1):020d}.jsonl"
        self._open, self._size = Lines(file), 0
        self._files.append((file, 0))
        return self._open

    def _end(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None

    def first(self) -> list[Operation]:
        while self._files:
            file, _ = self._files[0]
            if len(self._files) == 1:
                self._end()
            found = _read(file)
            if found:
                return found
            self.drop_first()
        return []

    def drop_first(self) -> None:
        file, _ = self._files.pop(0)
        file.unlink(missing_ok=True)

    @property
    def count(self) -> int:
        return sum(lines for _, lines in self._files)

    def copy(self, file: Path) -> str:
        """Keeps a copy of a file, or of a folder; returns what `copied` knows it by, whoever has the spool then."""
        place = Path(tempfile.mkdtemp(dir=self._folder, prefix=f"{time.time_ns():020d}-", suffix=".files"))
        if file.is_dir():
            shutil.copytree(file, place / file.name)
        else:
            shutil.copyfile(file, place / file.name)
        return f"{place.name}/{file.name}"

    def copied(self, name: str) -> Path:
        return self._folder / name

    def close(self) -> None:
        """Lets go; what waits stays for whoever comes next."""
        self._end()
        self._lock.release()


def waiting(folder: Path) -> int:
    """How many operations wait in the spools of a study."""
    return sum(_count(file) for file in folder.glob("*/*.jsonl"))


def unsent(count: int, paths: StudyPaths) -> str:
    """What is to be done about operations that wait when nothing runs any more."""
    waits = number_of(count, "write to the study's runs waits", "writes to the study's runs wait")
    return f"{waits} in {paths.spool} for their store; `sweeper sync {paths.name}`, or the next launch, sends them"


def _count(file: Path) -> int:
    """How many operations `_read` finds: whoever waits for them all would wait for ever for one more."""
    return sum(_operation(line) is not None for line in file.read_bytes().splitlines())


def _read(file: Path) -> list[Operation]:
    found: list[Operation] = []
    for line in file.read_bytes().splitlines():
        if (operation := _operation(line)) is not None:
            found.append(operation)
        elif line:  # a kill or a full disk cut it off
            logger.warning("a line of %s is no operation, and is left out", file)
    return found


def _operation(line: bytes) -> Operation | None:
    try:
        return Operation.from_line(line)
    except (ValueError, KeyError, TypeError, AttributeError):  # the last one: JSON, but no mapping
        return None
