"""Several workers on one study, in real processes: a launcher's two, one of which is killed, and one that joins."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import sqlalchemy
from filelock import FileLock

from sweeper.errors import HeldError
from sweeper.events import EventReader
from sweeper.launching import launcher
from sweeper.launching.join import _places
from sweeper.paths import Home
from sweeper.search.running import noted, working
from sweeper.search.views import view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.worker.recorder import RUN_STATES, trial_key
from tests.conftest import SHORT
from tests.launch.test_launch import start, sweeper, wait_for

TRIALS = 8


def began(home: Home, worker: int) -> bool:
    """Whether a worker has begun a trial."""
    events = EventReader(home.study("demo").events, 0).new()
    return any(event["event"] == "trial_started" and event["worker"] == worker for event in events)


def test_workers_share_a_study(home: Home, few_tickets: Path) -> None:
    paths = home.study("demo")
    options = ["train.examples=240", "checkpoint.every_s=0.5", "confirmation.top=2", f"search.trials={TRIALS}"]
    launcher = start(home, "launch", *SHORT, f"data.path={few_tickets}", *options, "cluster.workers=2")
    wait_for(lambda: began(home, 0) and began(home, 1))
    assert working(paths) == [0, 1]
    joined = start(home, "worker", "demo", "--json")
    victim = noted(paths.worker_holder(1))
    assert victim is not None
    os.kill(victim.holder.pid, signal.SIGKILL)
    wait_for(lambda: began(home, 100))
    assert 100 in working(paths)
    joined.send_signal(signal.SIGINT)  # its trials go on elsewhere
    out, err = joined.communicate(timeout=120)
    assert joined.returncode == 130, err
    assert all(json.loads(line)["event"] for line in out.splitlines())
    out, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, err
    assert f"note: worker 1 (process {victim.holder.pid}) ended with code -9, and is started again (1 of 3)" in out

    seen = view(home, "demo")
    assert [trial.number for trial in seen.trials] == list(range(TRIALS))
    assert all(trial.state in ("COMPLETE", "PRUNED") for trial in seen.trials)
    assert seen.confirmation is not None
    assert seen.attributes["test"]["trial"] == seen.best.number if seen.best is not None else None
    runs = MlflowTracker(home, "demo").states()
    assert all(runs[trial_key(trial.number)] is RUN_STATES[trial.state] for trial in seen.trials)
    with sqlalchemy.create_engine(f"sqlite:///{home.mlflow_file}").connect() as connection:
        counts = connection.execute(
            sqlalchemy.text("SELECT value, COUNT(*) FROM tags WHERE key = 'sweeper.trial' GROUP BY value")
        )
        assert {int(number): count for number, count in counts} == dict.fromkeys(range(TRIALS), 1)  # no run twice
    with sqlalchemy.create_engine(home.optuna_url).connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM sweeper_leases")) == 0
    assert working(paths) == []
    assert "complete already" in sweeper(home, "worker", "demo").stdout


def test_what_cannot_be_joined_says_why(home: Home) -> None:
    missing = sweeper(home, "worker", "demo")
    assert (missing.returncode, "launch the study first" in missing.stderr) == (2, True)


def test_those_who_join_at_once_have_places_of_their_own(home: Home) -> None:
    paths = home.study("demo")
    paths.create()
    with _places(paths, 2) as first, _places(paths, 1) as second, FileLock(paths.worker_lock(103)):
        assert (first, second) == (100, 102)
        with _places(paths, 2) as third:
            assert third == 104


def test_settings_do_not_change_under_workers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "LEAVING_S", 0.2)
    paths = home.study("demo")
    paths.create()
    with FileLock(paths.worker_lock(100)):
        launcher._refuse_under_workers(paths, [])
        with pytest.raises(
            HeldError, match=r"search\.trials differ and workers 100 of 'demo' run; `sweeper stop demo`"
        ):
            launcher._refuse_under_workers(paths, ["search.trials"])
    launcher._refuse_under_workers(paths, ["search.trials"])
