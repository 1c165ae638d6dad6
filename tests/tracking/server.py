"""A real MLflow server with names and passwords, as a team has one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

ADMIN, MEMBER = ("admin", "of-the-server-4711"), ("member", "of-this-study-0815")
SETTINGS = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/auth.db
admin_username = {name}
admin_password = {password}
"""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        uri: without credentials.
    """

    uri: str
    folder: Path

    def client(self, name: str, password: str) -> MlflowClient:
        """A client with credentials of its own, whatever the environment says."""
        return MlflowClient(tracking_uri=self.uri.replace("://", f"://{name}:{password}@"))

    @property
    def admin(self) -> MlflowClient:
        return self.client(*ADMIN)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(folder: Path, database: Path) -> Iterator[Server]:
    """Starts one in `folder`, on a copy of a migrated database, for the members `admin` and `member`."""
    shutil.copy(database, folder / "mlflow.db")
    name, password = ADMIN
    settings = folder / "auth.ini"
    settings.write_text(SETTINGS.format(folder=folder, name=name, password=password))
    port = free_port()
    server = Server(f"http://127.0.0.1:{port}", folder)
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "tests"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(server, process)
            users = f"{server.uri}/api/2.0/mlflow/users/create"
            body = {"username": MEMBER[0], "password": MEMBER[1]}
            requests.post(users, json=body, auth=ADMIN, timeout=60).raise_for_status()
            yield server
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=60)


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if requests.get(f"{server.uri}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        log = server.folder / "server.log"
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def as_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the environment says who one is."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", MEMBER[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", MEMBER[1])


def everything(client: MlflowClient, experiment_id: str, server: Server) -> dict[str, Any]:
    """All that an experiment's runs have, by their ids, with every point of each metric and every artifact's bytes."""
    found = {}
    for run in client.search_runs([experiment_id], max_results=1000):
        run_id = run.info.run_id
        metrics = {name: client.get_metric_history(run_id, name) for name in run.data.metrics}
        points = {name: [(p.step, p.value, p.timestamp) for p in history] for name, history in metrics.items()}
        root = server.folder / "artifacts" / experiment_id / run_id
        files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        found[run_id] = (dict(run.info), dict(run.data.tags), dict(run.data.params), points, files)
    return found


class PlainServer:
    """A server without names, which can be killed and started again on the same store and port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_up(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--port", str(self.port)]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        _wait(Server(self.uri, self.folder), self._process)

    def kill(self) -> None:
        """As a machine goes away: without a word."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=60)
        self._process = None


@contextmanager
def plain_server(folder: Path, database: Path) -> Iterator[PlainServer]:
    """Starts one in `folder`, on a copy of a migrated database."""
    shutil.copy(database, folder / "mlflow.db")
    server = PlainServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
