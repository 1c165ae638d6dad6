"""The services of docker/compose.yaml as plain processes: the same commands and environment, other addresses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from mlflow import MlflowClient

from sweeper.paths import Home
from sweeper.search.views import view
from tests.conftest import SHORT
from tests.docker.compose import DOCKER, composed, filled
from tests.postgresql import postgresql_server
from tests.tracking.server import free_port

WAIT_S = 120
TRIALS = 4
PROGRAMS = {"tini": [], "--": [], "sweeper-entrypoint": ["sh", str(DOCKER / "entrypoint.sh")]}


class Topology:
    """The services on this machine.

    Args:
        places: what stands for the addresses and folders of containers.
    """

    def __init__(self, places: Mapping[str, str], folder: Path) -> None:
        self._services: dict[str, Any] = composed(filled())["services"]
        self._places, self.folder = places, folder

    def environment(self, service: str, **others: str) -> dict[str, str]:
        """As the service has it, and of this machine where programs are, and nothing else."""
        found = dict(self._services[service]["environment"])
        for place, stand_in in self._places.items():
            found = {name: value.replace(place, stand_in) for name, value in found.items()}
        ours = {name: os.environ[name] for name in ("HOME", "HF_HUB_OFFLINE", "TMPDIR") if name in os.environ}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        image = {"SWEEPER_HOME": str(self.folder / "sweeps"), "MLFLOW_DISABLE_TELEMETRY": "true"}
        return {**ours, "PATH": path, **image, **found, **others}

    def command(self, service: str, *arguments: str) -> list[str]:
        """What its container runs; `arguments` are in place of its own, as of `compose run`."""
        entrypoint = self._services[service].get("entrypoint", ["tini", "--", "sweeper-entrypoint"])
        words = [*entrypoint, *(arguments or self._services[service].get("command", []))]
        return [part for word in words for part in PROGRAMS.get(word, [word])]

    def start(self, service: str, *arguments: str, **others: str) -> subprocess.Popen[bytes]:
        with self.log(service).open("ab") as log:
            return subprocess.Popen(
                self.command(service, *arguments),
                env=self.environment(service, **others),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"


@contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=WAIT_S)


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Runs statements; returns the rows of the last."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
        return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """PostgreSQL with a password, as its image sets it up, and the MLflow server over it, both answering."""
    folder = tmp_path_factory.mktemp("topology")
    with ExitStack() as ended:
        server = ended.enter_context(postgresql_server())
        password = filled()["POSTGRES_PASSWORD"]
        execute(
            server.url,
            "SET password_encryption = 'scram-sha-256'",
            f"CREATE ROLE sweeper SUPERUSER LOGIN PASSWORD '{password}'",
            *(DOCKER / "postgres" / "databases.sql").read_text(encoding="utf-8").split(";\n"),
        )
        server.ask_for_password("sweeper")
        postgres, mlflow = server.url.rpartition("@")[2].partition("/")[0], f"127.0.0.1:{free_port()}"
        places = {"postgres:5432": postgres, "mlflow:5000": mlflow, "/artifacts": str(folder / "artifacts")}
        made = Topology(places, folder)
        address = {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": mlflow.partition(":")[2]}
        process = ended.enter_context(running(made.start("mlflow", **address, MLFLOW_WORKERS="1")))
        deadline = time.monotonic() + WAIT_S
        check = ["sh", str(DOCKER / "healthy.sh"), "tracking-server"]
        while subprocess.run(check, env=made.environment("mlflow", **address), capture_output=True).returncode:
            assert process.poll() is None, made.log("mlflow").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, made.log("mlflow").read_text(encoding="utf-8")
            time.sleep(0.5)
        yield made


@pytest.mark.timeout(600)
def test_a_study_is_launched_joined_and_looked_at(
    topology: Topology, few_tickets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = topology.environment("launch-cpu")
    tracking = environment["MLFLOW_TRACKING_URI"]
    assert requests.get(f"{tracking}/api/2.0/mlflow/experiments/search?max_results=1", timeout=60).status_code == 401

    study = [*SHORT, f"data.path={few_tickets}", f"search.trials={TRIALS}", "train.examples=160"]
    with running(topology.start("worker", SWEEPER_JOIN_LOOK_S="0.5")) as worker:
        launched = topology.start("launch-cpu", *study)
        try:
            assert launched.wait(timeout=300) == 0, topology.log("launch-cpu").read_text(encoding="utf-8")
            assert worker.wait(timeout=WAIT_S) == 0, topology.log("worker").read_text(encoding="utf-8")
        finally:
            launched.kill()
    said = topology.log("worker").read_text(encoding="utf-8")
    assert "waiting for a launch of demo" in said
    assert "1 more worker for demo" in said

    home = Home(topology.folder / "sweeps", environment["SWEEPER_OPTUNA"])
    monkeypatch.setenv("PGPASSWORD", environment["PGPASSWORD"])
    assert [trial.number for trial in view(home, "demo").trials] == list(range(TRIALS))
    client = MlflowClient(tracking.replace("://", f"://admin:{environment['MLFLOW_TRACKING_PASSWORD']}@"))
    [experiment] = client.search_experiments(filter_string="name = 'demo'")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) >= TRIALS + 1
    assert (topology.folder / "artifacts" / experiment.experiment_id).is_dir()  # through the server
    status = topology.command("sweeper", "status", "demo")
    shown = subprocess.run(status, env=topology.environment("sweeper"), capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert "demo" in shown.stdout
    database = environment["SWEEPER_OPTUNA"]
    [[trials]] = execute(database, "SELECT count(*) FROM trials")
    [[tracked]] = execute(database.replace("/optuna", "/mlflow"), "SELECT count(*) FROM runs")
    [[users]] = execute(database.replace("/optuna", "/mlflow_auth"), "SELECT count(*) FROM users")
    assert (trials, tracked >= len(runs), users) == (TRIALS, True, 1)


def test_a_wrong_password_is_said_before_anything_is_trained(topology: Topology, few_tickets: Path) -> None:
    study = [*SHORT, f"data.path={few_tickets}", "study.name=refused"]
    launched = topology.start("launch-cpu", *study, MLFLOW_TRACKING_PASSWORD="another-one-4711")
    assert launched.wait(timeout=WAIT_S) == 2
    said = topology.log("launch-cpu").read_text(encoding="utf-8")
    assert "401" in said
    assert "another-one-4711" not in said
