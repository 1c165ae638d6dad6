"""Stores with studies in them that nothing trained: real Optuna and MLflow stores, real folders, made-up scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config import check
from sweeper.paths import Home, StudyPaths
from sweeper.search.running import note
from sweeper.search.study import Search
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import STUDY, RunState
from sweeper.worker.recorder import trial_key
from tests.search.conftest import ask, complete

Make = Callable[..., StudyPaths]
SCORES = (0.5, 0.7, 0.6)
SIZE = 1000  # of each adapter and checkpoint, in bytes


@pytest.fixture
def make(composed: Any, home: Home) -> Make:
    """Makes a study with a trial for each score, all complete, each with an adapter; and one that waits."""

    def made(name: str = "demo", scores: tuple[float, ...] = SCORES, *overrides: str) -> StudyPaths:
        config = composed("study=demo", f"study.name={name}", "search.trials=8", "store.keep_adapters=2", *overrides)
        paths = home.study(name)
        paths.create()
        check.save(config, paths)
        note(paths.holder)
        paths.launcher_lock.touch()
        search = Search(home, config)
        for score in scores:
            number = ask(search).number
            complete(search, number, score)
            write(paths.adapter(number) / "adapter_model.safetensors")
        if scores and len(scores) < config.search.trials:
            waiting = ask(search).number
            write(paths.checkpoint(waiting))
            search.requeue(waiting, has_crashed=False)
            search.remember("adapters", list(range(len(scores))))
        return paths

    return made


@pytest.fixture
def tracked(home: Home, migrated: Path) -> Callable[[StudyPaths, int], MlflowTracker]:
    """Gives the first trials of a study their runs in MLflow, with their adapters."""

    def track(paths: StudyPaths, trials: int) -> MlflowTracker:
        if not home.mlflow_file.is_file():
            shutil.copy(migrated, home.mlflow_file)
        tracker = MlflowTracker(home, paths.name)
        tracker.start(STUDY, paths.name, {}, {})
        for number in range(trials):
            tracker.start(trial_key(number), f"t{number:02d}", {"rank": 8}, {})
            tracker.log(trial_key(number), {"accuracy": 0.5}, 10)
            tracker.log_file(trial_key(number), paths.adapter(number), "adapter")
            tracker.end(trial_key(number), RunState.FINISHED, {})
        tracker.flush()
        return tracker

    return track


def write(file: Path, size: int = SIZE) -> Path:
    """Writes a file of `size` bytes, and its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    return file


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file under a folder, locks and SQLite's own side files left out."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if path.suffix != ".lock" and not path.name.endswith(("-journal", "-wal", "-shm"))
    }
