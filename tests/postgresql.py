"""A PostgreSQL server for tests, where the programs of one are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own; its address has no password in it."""
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is missing: pip install -e '.[dev]'")
    if not (POSTGRESQL / "initdb").is_file():
        pytest.skip(f"no PostgreSQL server at {POSTGRESQL}")
    from tests.tracking.server import free_port  # it asks for MLflow, which a bundle for a CUDA machine has not

    folder, port = Path("/tmp") / f"sweeper-postgresql-{os.getpid()}", free_port()
    folder.mkdir()
    as_user: dict[str, Any] = {"cwd": "/", "check": True, "capture_output": True}
    if os.geteuid() == 0:  # initdb refuses to be root
        entry = pwd.getpwnam("nobody")
        shutil.chown(folder, entry.pw_uid, entry.pw_gid)
        as_user |= {"user": entry.pw_uid, "group": entry.pw_gid}
    data, options = str(folder / "data"), f"-k {folder} -h 127.0.0.1 -p {port} -c fsync=off"
    try:
        subprocess.run([POSTGRESQL / "initdb", "-D", data, "-U", "reader", "-A", "trust", "-N"], **as_user)
        log = str(folder / "log")
        as_user["capture_output"] = False  # the server would keep the pipe open
        subprocess.run([POSTGRESQL / "pg_ctl", "start", "-w", "-D", data, "-o", options, "-l", log], **as_user)
        yield f"postgresql+psycopg://reader@127.0.0.1:{port}/postgres"
        subprocess.run([POSTGRESQL / "pg_ctl", "stop", "-m", "immediate", "-D", data], **as_user)
    finally:
        shutil.rmtree(folder)
