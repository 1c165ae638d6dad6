"""The store: whether it can be written, and whether there is room on its disk and on that of the Hub's cache."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sweeper.cli.checks.system import is_wsl
from sweeper.cli.finding import Finding, State
from sweeper.errors import StoreError
from sweeper.models.hub import cache_folder
from sweeper.paths import Home
from sweeper.units import GIB

MIN_FREE_GIB = 2  # a small study with its stores
FEW_FREE_GIB = 20  # a base of 7 billion parameters is 15 GiB to download, and 4 GiB once it is quantised
_DRIVE = re.compile(r"/mnt/[a-z](/|$)")  # where WSL has C: and the like


def store(home: Home) -> Finding:
    try:
        home.create()
    except StoreError as error:
        return Finding("store", State.MISSING, str(error), "set SWEEPER_HOME to a folder that can be written")
    if is_wsl() and _DRIVE.match(str(home.root.resolve())):
        detail = f"{home.root} is on a disk of Windows, which is slow from here, and databases lock badly there"
        return Finding("store", State.WARNING, detail, "export SWEEPER_HOME=~/sweeps")
    return Finding("store", State.OK, str(home.root))


def disk(home: Home) -> Finding:
    free_gib = _free_gib(home.root)
    said, is_small = f"{free_gib:.1f} GiB free for the store", free_gib < MIN_FREE_GIB
    if not is_small and (cache := _standing(cache_folder())).stat().st_dev != _standing(home.root).stat().st_dev:
        free_gib = min(free_gib, _free_gib(cache))
        said += f", {_free_gib(cache):.1f} GiB for the Hub's cache in {cache_folder()}"
    cure = "free some (`sweeper clean` lists what may go), or export SWEEPER_HOME=DIR and HF_HOME=DIR on another disk"
    if is_small:
        return Finding("disk", State.MISSING, f"{said}; a small study needs {MIN_FREE_GIB}", cure)
    if free_gib < FEW_FREE_GIB:
        return Finding("disk", State.WARNING, f"{said}; a base of 7B parameters and its copy need {FEW_FREE_GIB}", cure)
    return Finding("disk", State.OK, said)


def _free_gib(folder: Path) -> float:
    return shutil.disk_usage(_standing(folder)).free / GIB


def _standing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
