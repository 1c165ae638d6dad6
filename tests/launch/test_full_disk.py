"""A disk that is full at random moments of one study, in real processes; more of them under `make test-all`."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.search.views import TrialView, view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.spool import waiting
from sweeper.worker.recorder import RUN_STATES, trial_key
from tests.conftest import SHORT, share_formulas
from tests.launch.test_launch import start, wait_for

ROUNDS = 15 if os.environ.get("SWEEPER_TESTS") == "all" else 1
TRIALS = 3 + ROUNDS
STUDY = (*SHORT, f"search.trials={TRIALS}", "train.examples=96", "checkpoint.every_s=0.5", "engine.slots=2")
SIZE = "96m"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for the study and not much more."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def told(home: Home) -> dict[int, TrialView]:
    """The trials that have ended; what Optuna says of them must not change any more."""
    try:
        return {trial.number: trial for trial in view(home, "demo").trials if trial.is_told}
    except StoreError:  # before there was a study
        return {}


def wait_for_a_tick(home: Home) -> None:
    events = home.study("demo").events
    seen = events.stat().st_size if events.is_file() else 0
    wait_for(lambda: events.is_file() and '"event": "tick"' in events.read_text(encoding="utf-8")[seen:])


def fill(folder: Path) -> Path:
    """Takes all room that there is."""
    file = folder / "others"
    with file.open("wb", buffering=0) as opened, contextlib.suppress(OSError):
        while True:
            opened.write(b"\0" * 2**16)
    return file


@pytest.mark.timeout(1800)
def test_a_study_survives_a_disk_that_is_full(small: Path, few_tickets: Path, tmp_path: Path, formulas: Path) -> None:
    chooser, home, finished = random.Random(7), Home(small / "store"), tmp_path / "finished"
    home.create()
    share_formulas(formulas, home.memory)
    launch = ["launch", *STUDY, f"data.path={few_tickets}", f"on_finish='echo $SWEEPER_OUTCOME >> {finished}'"]
    before: dict[int, TrialView] = {}
    for number in range(ROUNDS):
        launcher = start(home, *launch)
        wait_for_a_tick(home)
        time.sleep(chooser.uniform(0.0, 3.0))
        others = fill(small)
        out, err = launcher.communicate(timeout=200)
        others.unlink()
        assert launcher.returncode == 2, (out, err)
        assert "error: the disk must have room for what a study writes, but " in err
        assert "Traceback" not in err
        assert "the same command goes on" in err
        assert finished.read_text().split() == ["error"] * (number + 1)
        after = told(home)
        assert {number: after[number] for number in before} == before
        before = after
    done = start(home, *launch)
    _, err = done.communicate(timeout=900)
    assert done.returncode == 0, err
    assert finished.read_text().split()[-1] == "finished"

    seen = view(home, "demo")
    assert [trial.number for trial in seen.trials] == list(range(TRIALS))
    assert all(trial.state in ("COMPLETE", "PRUNED") for trial in seen.trials)
    after = told(home)
    assert {number: after[number] for number in before} == before
    assert waiting(home.study("demo").spool) == 0
    runs = MlflowTracker(home, "demo").states()
    assert sum(key.number is not None for key in runs) == TRIALS
    assert all(runs[trial_key(trial.number)] is RUN_STATES[trial.state] for trial in seen.trials)
    names = {file.name for file in home.study("demo").root.rglob("*")}
    assert not [name for name in names if name.endswith(".tmp") or name.startswith("checkpoint")]
