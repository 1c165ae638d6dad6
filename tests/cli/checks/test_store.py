from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from sweeper.cli.checks.store import disk, store
from sweeper.cli.finding import State
from sweeper.paths import Home
from sweeper.units import GIB

Usage = namedtuple("Usage", "free")


def test_a_store_that_cannot_be_written() -> None:
    found = store(Home(Path("/proc/store")))
    assert (found.state, found.cure) == (State.MISSING, "set SWEEPER_HOME to a folder that can be written")


@pytest.mark.parametrize(("free_gib", "state"), [(100.0, State.OK), (12.0, State.WARNING), (1.0, State.MISSING)])
def test_a_disk_that_is_nearly_full(home: Home, monkeypatch: pytest.MonkeyPatch, free_gib: float, state: State) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(int(free_gib * GIB)))
    found = disk(home)
    assert found.state is state
    assert found.detail.startswith(f"{free_gib:.1f} GiB free for the store")
    assert (found.cure is None) == (state is State.OK)


def test_a_store_that_is_not_there_yet_is_on_the_disk_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(folder: Path) -> Usage:
        asked.append(folder)
        return Usage(100 * GIB)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    disk(Home(tmp_path / "not" / "yet"))
    assert asked[0] == tmp_path


def test_a_store_on_a_disk_of_windows(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "5.15.153.1-microsoft-standard-WSL2")
    assert store(home).state is State.OK
    monkeypatch.setattr(Path, "resolve", lambda self: Path("/mnt/c/Users/me/sweeps"))
    found = store(home)
    assert (found.state, found.cure) == (State.WARNING, "export SWEEPER_HOME=~/sweeps")
