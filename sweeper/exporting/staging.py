"""A folder that appears whole or not at all, also where it replaces another one."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from sweeper.errors import ExportError
from sweeper.exporting.manifest import MANIFEST

_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
_HERE = -100  # AT_FDCWD


def check(folder: Path, force: bool) -> None:
    """Refuses a folder that is there, unless it is an earlier export, and may be replaced.

    Raises:
        ExportError: saying which.
    """
    if not (folder.exists() or folder.is_symlink()):
        return
    is_ours = folder.is_dir() and not folder.is_symlink()
    is_ours = is_ours and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))
    if not force:
        cure = "--force replaces it" if is_ours else "choose another one"
        raise ExportError(f"the folder must not exist yet, but {folder} does; {cure}")
    if not is_ours:
        raise ExportError(f"--force replaces an earlier export, but {folder} has no {MANIFEST}; choose another folder")


@contextmanager
def staged(folder: Path, force: bool) -> Iterator[Path]:
    """A folder to write in, which takes the place of `folder` as the block ends; an error deletes it.

    Whenever this process is stopped, `folder` is the old one, whole, or the new one, or not there. What a killed one
    has left beside it is deleted by the next.

    Args:
        force: whether an earlier export may be replaced.

    Raises:
        ExportError: if it cannot be written there, or something else is there by then.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _bring_back(folder)
        for left in folder.parent.glob(f".{folder.name}.*"):
            if left.suffix[1:].isdecimal() and (left == temporary or not psutil.pid_exists(int(left.suffix[1:]))):
                shutil.rmtree(left)
        temporary.mkdir()
    except OSError as error:
        raise ExportError(
            f"the folder to export to must be one that can be written, but {folder}: {error.strerror}"
        ) from None
    try:
        yield temporary
        for file in temporary.rglob("*"):  # what was written for its owner alone is to be passed on
            file.chmod(file.stat().st_mode | 0o444 | (0o111 if file.is_dir() else 0))
        check(folder, force)  # again: writing took a while
        _put(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(new: Path, folder: Path) -> None:
    """Puts a folder in the place of another one."""
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(new, folder)  # also over an empty one
    elif not _exchanged(new, folder):
        aside = _aside(folder)
        os.replace(folder, aside)  # where two folders cannot change places, none is there for a moment
        try:
            os.replace(new, folder)
        except BaseException:
            os.replace(aside, folder)
            raise
        shutil.rmtree(aside)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _bring_back(folder: Path) -> None:
    """Puts back what was killed as it was put aside."""
    aside = _aside(folder)
    if aside.is_dir() and folder.exists():
        shutil.rmtree(aside)
    elif aside.is_dir():
        os.replace(aside, folder)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two folders have changed places, at once: Linux can, on most file systems."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)
