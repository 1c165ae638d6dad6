"""Deleting paths of the store: never through a link, and never by halves.

A folder gets another name first, `.NAME.deleting`, so that one which is half deleted is never taken for a
whole one, and is known for what it is when that was interrupted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sweeper.errors import StoreError
from sweeper.paths import Home

_SUFFIX = ".deleting"


def link_in(home: Home, path: Path) -> Path | None:
    """The first link on the way from the store's folder to `path`, or `path` itself; None where there is none."""
    found = home.root
    for part in path.relative_to(home.root).parts:
        found = found / part
        if found.is_symlink():
            return found
    return None


def remove(home: Home, path: Path) -> None:
    """Deletes a file or folder of the store; what is gone already is no error.

    Raises:
        StoreError: if it lies behind a link, or cannot be deleted.
    """
    link = link_in(home, path)
    if link is not None:
        raise StoreError(f"only what lies in the store itself is deleted, but {link} is a link to {os.readlink(link)}")
    try:
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        aside = path
        if not is_aside(path):
            aside = aside_of(path)
            if aside.is_dir():  # from an earlier time
                shutil.rmtree(aside)
            os.replace(path, aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise StoreError(f"{path} must be deletable, but it is not: {error.strerror or error}") from error


def aside_of(path: Path) -> Path:
    """Where a folder is while it is deleted."""
    return path.with_name(f".{path.name}{_SUFFIX}")


def is_aside(path: Path) -> bool:
    """Whether a folder has the name of one that was being deleted."""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)


def whole_name(path: Path) -> str:
    """The name that such a folder had."""
    return path.name.removeprefix(".").removesuffix(_SUFFIX)


def children(folder: Path) -> Iterator[Path]:
    """What lies in a folder, by name; nothing where there is no such folder."""
    if folder.is_dir():
        yield from sorted(folder.iterdir())
