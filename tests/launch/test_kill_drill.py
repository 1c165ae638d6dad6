"""kill -9 of launcher or worker at random moments of one study; thirty of them under `make test-all`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import sqlalchemy

from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.search.views import TrialView, view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.worker.recorder import RUN_STATES, trial_key
from tests.conftest import SHORT
from tests.launch.test_launch import start, wait_for

KILLS = 30 if os.environ.get("SWEEPER_TESTS") == "all" else 4
TRIALS = 8 + 2 * KILLS
STUDY = (*SHORT, f"search.trials={TRIALS}", "train.examples=96", "checkpoint.every_s=0.5", "engine.slots=3")


def told(home: Home) -> dict[int, TrialView]:
    """The trials that have ended; what Optuna says of them must not change any more."""
    try:
        return {trial.number: trial for trial in view(home, "demo").trials if trial.is_told}
    except StoreError:  # killed before there was a study
        return {}


def workers_of(pid: int) -> list[int]:
    return [int(child) for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True).stdout.split()]


def wait_for_a_tick(home: Home) -> None:
    events = home.study("demo").events
    seen = events.stat().st_size if events.is_file() else 0
    wait_for(lambda: events.is_file() and '"event": "tick"' in events.read_text(encoding="utf-8")[seen:])


def kill_something(launcher: subprocess.Popen[str], chooser: random.Random) -> str:
    """Kills the launcher or its worker; what is left of them ends by itself, or is waited for by the next."""
    victims = [("launcher", launcher.pid), *(("worker", pid) for pid in workers_of(launcher.pid))]
    name, pid = chooser.choice(victims)
    os.kill(pid, signal.SIGKILL)
    launcher.communicate(timeout=60)
    return name


@pytest.mark.timeout(1800)
def test_a_study_survives_being_killed(home: Home, few_tickets: Path) -> None:
    chooser = random.Random(4)
    launch = ["launch", *STUDY, f"data.path={few_tickets}"]
    before: dict[int, TrialView] = {}
    moments = []
    for _ in range(KILLS):
        launcher = start(home, *launch)
        phase = chooser.choice(["start-up", "training", "training"])
        if phase == "training":
            wait_for_a_tick(home)
        delay_s = chooser.uniform(0.2, 6.0) if phase == "start-up" else chooser.uniform(0.0, 3.0)
        time.sleep(delay_s)
        assert launcher.poll() is None, f"ended before it was killed: {launcher.communicate()}"
        moments.append((kill_something(launcher, chooser), phase, round(delay_s, 1)))
        after = told(home)
        assert {number: after[number] for number in before} == before
        before = after
    done = start(home, *launch)
    _, err = done.communicate(timeout=900)
    assert done.returncode == 0, err
    print(f"killed {moments}; {len(before)} of {TRIALS} trials had ended before the last launch")

    seen = view(home, "demo")
    assert [trial.number for trial in seen.trials] == list(range(TRIALS))
    assert all(trial.state in ("COMPLETE", "PRUNED") for trial in seen.trials)
    after = told(home)
    assert {number: after[number] for number in before} == before
    runs = MlflowTracker(home, "demo").states()
    assert sum(key.number is not None for key in runs) == TRIALS
    assert all(runs[trial_key(trial.number)] is RUN_STATES[trial.state] for trial in seen.trials)
    assert list(home.study("demo").root.glob("trials/*/checkpoint*")) == []
    with sqlalchemy.create_engine(home.optuna_url).connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM sweeper_leases")) == 0
