"""Studies over a network: workers on machines that share no folder, and connections that are cut for a while."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.events import EventReader
from sweeper.paths import Home
from sweeper.search.views import StudyView, view
from tests.conftest import SHORT
from tests.drills.stores import Stores
from tests.launch.test_launch import start, sweeper, wait_for
from tests.postgresql import postgresql_server
from tests.proxy import Proxy
from tests.tracking.server import plain_server

CUT_S = 30.0 if os.environ.get("SWEEPER_TESTS") == "all" else 8.0
TRIALS = 6
STUDY = [*SHORT, "train.examples=160", "checkpoint.every_s=0.5", "confirmation.top=2", f"search.trials={TRIALS}"]


@pytest.fixture
def servers(tmp_path: Path, migrated: Path) -> Iterator[tuple[str, str]]:
    """The addresses of a database and of a tracking server; before there is a store, whose processes are counted."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    with postgresql_server() as database, plain_server(folder, migrated) as tracking:
        yield database.url, tracking.uri


def begun(home: Home, worker: int) -> int:
    """How many trials a worker has begun, by the events of a machine."""
    events = EventReader(home.study("demo").events, 0).new()
    return sum(event["event"] == "trial_started" and event["worker"] == worker for event in events)


@pytest.mark.timeout(900)
def test_machines_that_share_no_folder_share_a_study(
    servers: tuple[str, str], home: Home, few_tickets: Path, tmp_path: Path
) -> None:
    database, tracking = servers
    mirror = f"file://{tmp_path / 'mirror'}"
    launch = ["launch", *STUDY, f"data.path={few_tickets}", f"store.optuna={database}", f"tracking.uri={tracking}"]
    launcher = start(
        home, *launch, f"store.mirror={mirror}", "mirror.every_s=3", "cluster.workers=1", "search.lease_s=20"
    )
    wait_for(lambda: begun(home, 0) > 0)
    there = Home(tmp_path / "another-machine")
    early = sweeper(there, "worker", "demo")
    assert (early.returncode, "--mirror URL" in early.stderr) == (2, True)
    wait_for(lambda: (tmp_path / "mirror").is_dir())
    # Else it may have trained all before the other one is there. What it is halted in may be a lease of all workers.
    worker = int(subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split()[0])
    os.kill(worker, signal.SIGSTOP)
    joined = start(there, "worker", "demo", "--mirror", mirror)
    try:
        wait_for(lambda: begun(there, 100) > 0)
    finally:
        os.kill(worker, signal.SIGCONT)
    out, err = joined.communicate(timeout=400)
    assert joined.returncode == 0, err
    assert "demo is back from its mirror" in out
    out, err = launcher.communicate(timeout=400)
    assert launcher.returncode == 0, err

    seen: StudyView = view(Home(home.root, database), "demo")
    assert [trial.number for trial in seen.trials] == list(range(TRIALS))
    Stores(home.study("demo"), database, tracking).verify(TRIALS, {})
    assert seen.best is not None
    assert seen.attributes["test"]["trial"] == seen.best.number


@pytest.mark.timeout(900)
def test_connections_that_are_cut_end_nothing(servers: tuple[str, str], home: Home, few_tickets: Path) -> None:
    ports = [int(re.findall(r":(\d+)", url)[-1]) for url in servers]
    with Proxy(ports[0]) as database, Proxy(ports[1]) as tracking:
        urls = [
            url.replace(f":{port}", f":{proxy.port}")
            for url, port, proxy in zip(servers, ports, (database, tracking), strict=True)
        ]
        options = [f"data.path={few_tickets}", f"store.optuna={urls[0]}", f"tracking.uri={urls[1]}"]
        launcher = start(home, "launch", *STUDY, *options)
        wait_for(lambda: begun(home, 0) > 2)
        with database.cut(), tracking.cut():
            time.sleep(CUT_S)
        out, err = launcher.communicate(timeout=600)
        assert launcher.returncode == 0, err
        assert out.count("is away") + out.count("cannot be reached") + out.count("cannot be written now") > 0, out
        Stores(home.study("demo"), urls[0], urls[1]).verify(TRIALS, {})
