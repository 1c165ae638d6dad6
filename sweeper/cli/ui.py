"""`sweeper ui`: MLflow's server on the store, bound to this machine."""

from __future__ import annotations

import os
import socket
import sys

import click

from sweeper.errors import StoreError
from sweeper.paths import Home, is_valid_name
from sweeper.tracking.place import record

HOST = "127.0.0.1"
START = "/#/experiments?workflowType=machine_learning"  # training runs; MLflow 3 would open at its GenAI views


def server_command(home: Home, port: int) -> list[str]:
    """MLflow's server, told where this store's runs and artifacts lie now."""
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        home.mlflow_url,
        "--artifacts-destination",
        home.artifacts.as_uri(),
        "--serve-artifacts",
        "--default-artifact-root",
        "mlflow-artifacts:/",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]


def on_servers(home: Home) -> list[str]:
    """The tracking servers that studies have runs on, a line for each study and experiment."""
    lines = []
    for folder in sorted(home.studies.iterdir()) if home.studies.is_dir() else ():
        kept = record(home.study(folder.name)) if is_valid_name(folder.name) else None
        for place in kept.places if kept is not None else ():
            lines.append(f"{folder.name}: {place.uri}/#/experiments/{place.experiment_id} ({place.experiment})")
    return lines


def serve(home: Home, port: int) -> None:
    """Says which studies have their runs on a tracking server, and serves the others'.

    For that this process is replaced with MLflow's server; Ctrl-C ends it.

    Raises:
        StoreError: if there is no store, or the port is taken.
    """
    elsewhere = on_servers(home)
    for line in elsewhere:
        click.echo(line)
    if not home.mlflow_file.is_file():
        if elsewhere:
            return
        raise StoreError(f"there are no runs at {home.root}; launch a study there, or set SWEEPER_HOME")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StoreError(f"port {port} must be free, but {error.strerror}; try --port {port + 1}") from None
    click.echo(f"MLflow on http://{HOST}:{port}{START} (store: {home.root}); Ctrl-C ends it")
    sys.stdout.flush()
    command = server_command(home, port)
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)  # it names another server
    os.execve(command[0], command, environment)
