"""The machine vanishes, and the study goes on elsewhere; many times under `make test-all`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from sweeper.mirror.manifest import latest
from sweeper.mirror.remote import Remote
from sweeper.mirror.restoring import restore
from sweeper.money.ledger import Ledger
from sweeper.paths import Home
from sweeper.search.views import TrialView, open_storage, view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.worker.recorder import RUN_STATES, trial_key
from tests.conftest import SHORT, share_formulas
from tests.launch.test_launch import has_event, start, sweeper, wait_for

IS_FULL = os.environ.get("SWEEPER_TESTS") == "all"
ROUNDS = 8 if IS_FULL else 1
TRIALS = 24 if IS_FULL else 3
STUDY = (
    *SHORT,
    f"search.trials={TRIALS}",
    "train.examples=64",
    "tracking.system_metrics=false",
    "checkpoint.every_s=0.5",
    "mirror.every_s=1",
    "gpu=a10g",
)


def told(home: Home) -> dict[int, TrialView]:
    """The trials that have ended."""
    return {trial.number: trial for trial in view(home, "demo").trials if trial.is_told}


def vanish(launcher: subprocess.Popen[str], home: Home) -> None:
    """Nobody of it gets to do anything more, and what they had is gone."""
    processes = psutil.Process(launcher.pid).children(recursive=True)
    for pid in (launcher.pid, *(process.pid for process in processes)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launcher.communicate(timeout=60)
    psutil.wait_procs(processes, timeout=60)
    shutil.rmtree(home.root)


@pytest.mark.timeout(1800)
def test_a_study_outlives_its_machines(tmp_path: Path, few_tickets: Path, formulas: Path) -> None:
    chooser = random.Random(10)
    mirror = (tmp_path / "mirror").as_uri()
    launch = ["launch", *STUDY, f"data.path={few_tickets}", f"store.mirror={mirror}"]
    before: dict[int, TrialView] = {}
    for attempt in range(ROUNDS):
        home = Home(tmp_path / f"machine-{attempt}")
        home.create()
        share_formulas(formulas, home.memory)
        launcher = start(home, *launch)
        wait_for_more(launcher, home, len(before))
        wait_for_a_copy(mirror)
        time.sleep(chooser.uniform(0.0, 3.0 if IS_FULL else 0.5))
        after = told(home)
        assert {number: after[number] for number in before} == before
        vanish(launcher, home)
        before = told_by(mirror, tmp_path / f"look-{attempt}")
        assert len(before) >= 1
    home = Home(tmp_path / "the-last")
    done = sweeper(home, *launch, "gpu=rtx-4090")  # another card, with as much memory or more
    assert done.returncode == 0, done.stderr
    assert "note: gpu.name: was 'a10g', is 'rtx-4090'" in done.stdout
    assert "the study keeps the memory budget that it was begun with" in done.stdout
    assert "demo is back from its mirror" in done.stdout
    assert f"the mirror has the study as it is: {mirror}" in done.stdout

    share_formulas(home.memory, formulas)
    seen, after = view(home, "demo"), told(home)
    assert [trial.number for trial in seen.trials] == list(range(TRIALS))
    assert all(trial.state in ("COMPLETE", "PRUNED") for trial in seen.trials)
    assert {number: after[number] for number in before} == before
    assert seen.best is not None
    assert home.study("demo").adapter(seen.best.number).is_dir()
    assert list(home.study("demo").root.glob("trials/*/checkpoint*")) == []
    runs = MlflowTracker(home, "demo").states()
    assert sum(key.number is not None for key in runs) == TRIALS
    assert all(runs[trial_key(trial.number)] is RUN_STATES[trial.state] for trial in seen.trials)
    ledger = Ledger(open_storage(home).engine)
    assert len(ledger.sessions("demo")) >= 2
    booked = ledger.bookings("demo")
    for session in ledger.sessions("demo"):
        assert session.booked_us == sum(one.us for one in booked if one.session == session.id) <= session.heartbeat_us


def wait_for_more(launcher: subprocess.Popen[str], home: Home, count: int) -> None:
    """Waits until more trials have ended than so many, on all machines together."""
    is_more = has_event(home, rf'(?s)("event": "trial_ended".*){{{count + 1}}}')
    wait_for(lambda: is_more() or launcher.poll() is not None)
    assert launcher.poll() is None, launcher.communicate()


def wait_for_a_copy(mirror: str) -> None:
    """Waits for a generation that was begun after now."""
    now_s = time.time()
    wait_for(lambda: any(one.taken_s > now_s for one in latest(Remote(mirror))))


def told_by(mirror: str, folder: Path) -> dict[int, TrialView]:
    """The trials that had ended when the last copy was made."""
    paths = Home(folder).study("demo")
    Home(folder).create()
    paths.create()
    restore(paths, mirror, print)
    return told(paths.home)
