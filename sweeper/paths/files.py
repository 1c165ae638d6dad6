"""Names that become paths, and files that are written whole."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sweeper.errors import StoreError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def is_valid_name(name: str) -> bool:
    """Whether `name` is safe as a folder, study and experiment name."""
    return re.fullmatch(NAME_PATTERN, name) is not None


def write_atomically(path: Path, content: str | bytes, is_for_all: bool = False) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Args:
        is_for_all: whoever may look into its folder can read it, as what is to be passed on.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        if is_for_all:
            os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def opened_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, which is at `path` once the block has ended well; of any other end nothing stays.

    Whoever may read what the user's programs write can read it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Makes a folder of the store; raises StoreError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"the store must be a folder that can be written, but {folder} is not: {error.strerror}. "
            "Set SWEEPER_HOME or store.home=DIR to another folder"
        ) from error
