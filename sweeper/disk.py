"""A disk that is full, whoever says so: the operating system, SQLite under Optuna or MLflow, or a library."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sweeper.errors import DiskFullError
from sweeper.units import size_text

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, no quota, and a limit of the process's own
EXIT_CODE = 28  # of a process that can write nothing any more, not even how it ended
# What is told in words alone: SQLite's, by libraries that wrap it; and Rust's, in safetensors.
_WORDS = ("database or disk is full", *(f"(os error {number})" for number in _FULL))


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, is that the disk is full."""
    return any(_says_so(one) for one in _chain(error))


def full(error: BaseException, folder: Path) -> DiskFullError:
    """The same as an error in words.

    Args:
        folder: where was written.
    """
    named = next((one.filename for one in _chain(error) if isinstance(one, OSError) and one.filename), None)
    reason = next(one for one in _chain(error) if _says_so(one))
    if isinstance(reason, DiskFullError):
        return reason
    words = reason.strerror if isinstance(reason, OSError) and reason.strerror else " ".join(str(reason).split())
    return no_room(folder, Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None, words)


def no_room(folder: Path, file: Path | None = None, reason: str = os.strerror(errno.ENOSPC)) -> DiskFullError:
    """The error of a disk that is full.

    Args:
        folder: where was written.
        file: which one, if that is known.
    """
    place = next(place for place in (folder, *folder.parents) if place.is_dir())
    return DiskFullError(
        f"the disk must have room for what a study writes, but {file or folder} cannot be written: {reason} "
        f"({size_text(shutil.disk_usage(place).free)} free in {place}). Free some (`sweeper clean` says what may go), "
        "or lower checkpoint.max_gib or store.keep_adapters; what is stored is whole, and the same command goes on"
    )


def _says_so(error: BaseException) -> bool:
    if isinstance(error, DiskFullError):
        return True
    if isinstance(error, OSError):
        return error.errno in _FULL
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
        return True
    return any(words in str(error) for words in _WORDS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, the last one first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class Lines:
    """Appends lines to a file, each at once; one that a full disk or a kill cut off becomes no part of the next.

    Raises:
        OSError: where it cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._descriptor).st_size
        self._is_torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def add(self, line: str) -> int:
        """Appends a line, which ends as one; returns its bytes."""
        data = rest = (b"\n" if self._is_torn else b"") + line.encode()
        self._is_torn = True
        while rest:  # a disk that is nearly full takes a part
            rest = rest[os.write(self._descriptor, rest) :]
        self._is_torn = False
        return len(data)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
