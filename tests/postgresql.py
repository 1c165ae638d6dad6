"""A PostgreSQL server for tests, where the programs of one are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
WAIT_S = 60


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A server of its own; its address has no password in it."""
    with postgresql_server() as server:
        yield server.url


class PostgresqlServer:
    """A server in a folder of its own, which can be killed and started again on the same data and port.

    Attributes:
        url: has no password in it.
    """

    def __init__(self, folder: Path, port: int, is_durable: bool) -> None:
        self.url = f"postgresql+psycopg://reader@127.0.0.1:{port}/postgres"
        self._folder, self._data, self._log = folder, folder / "data", folder / "log"
        self._options = f"-k {folder} -h 127.0.0.1 -p {port} -c fsync={'on' if is_durable else 'off'}"
        self._as_user: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:  # initdb refuses to be root
            entry = pwd.getpwnam("nobody")
            shutil.chown(folder, entry.pw_uid, entry.pw_gid)
            self._as_user |= {"user": entry.pw_uid, "group": entry.pw_gid}

    def create(self) -> None:
        """Makes its data."""
        command = [POSTGRESQL / "initdb", "-D", self._data, "-U", "reader", "-A", "trust", "-N"]
        subprocess.run(command, **self._as_user, check=True, capture_output=True)

    def start(self) -> None:
        """Returns when it answers."""
        command = [POSTGRESQL / "pg_ctl", "start", "-w", "-t", str(WAIT_S), "-D", self._data]
        command += ["-o", self._options, "-l", self._log]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # a pipe would stay open
        subprocess.run(command, **self._as_user, **quiet, check=True)

    def stop(self) -> None:
        command = [POSTGRESQL / "pg_ctl", "stop", "-m", "immediate", "-D", self._data]
        subprocess.run(command, **self._as_user, check=True, capture_output=True)

    def ask_for_password(self, user: str) -> None:
        """From now on, of that user."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"host all {user} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        subprocess.run(
            [POSTGRESQL / "pg_ctl", "reload", "-D", self._data], **self._as_user, check=True, capture_output=True
        )

    def kill(self) -> None:
        """As a machine goes away: the postmaster and all its children, without a word."""
        postmaster = self._postmaster()
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            _kill(process)
        _, alive = psutil.wait_procs(family, timeout=WAIT_S)
        assert not alive, alive

    def backends(self) -> list[psutil.Process]:
        """The processes that serve a connection; when one is killed, the server ends all of them and recovers."""
        found = []
        for child in self._postmaster().children():
            with suppress(psutil.NoSuchProcess):  # it ends just now
                if " reader " in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def _postmaster(self) -> psutil.Process:
        return psutil.Process(int((self._data / "postmaster.pid").read_text().splitlines()[0]))


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


@contextmanager
def postgresql_server(is_durable: bool = False) -> Iterator[PostgresqlServer]:
    """Starts one.

    Args:
        is_durable: it outlives being killed, as one must that people rely on; slower.
    """
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is missing: pip install -e '.[dev]'")
    if not (POSTGRESQL / "initdb").is_file():
        pytest.skip(f"no PostgreSQL server at {POSTGRESQL}")
    from tests.tracking.server import free_port  # it asks for MLflow, which a bundle for a CUDA machine has not

    folder = Path(tempfile.mkdtemp(prefix="sweeper-postgresql-", dir="/tmp"))  # the path of a socket is short
    try:
        server = PostgresqlServer(folder, free_port(), is_durable)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
