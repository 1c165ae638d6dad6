"""`sweeper ui`: MLflow's server on the store, bound to this machine, and a link to each study's runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import click

from sweeper.cli.local_server import HOST, LocalServer, browse
from sweeper.config import check
from sweeper.errors import ConfigError, StoreError, unknown
from sweeper.paths import Home, is_valid_name
from sweeper.tracking.place import record
from sweeper.tracking.view import VIEW_TAG, RunsView, address

START = "/#/experiments?workflowType=machine_learning"  # training runs; MLflow 3 would open at its GenAI views
_PAGE = 1000


def mlflow_server(home: Home, port: int) -> LocalServer:
    """MLflow's server, told where this store's runs and artifacts lie now."""
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", home.mlflow_url),
        *("--artifacts-destination", home.artifacts.as_uri(), "--serve-artifacts"),
        *("--default-artifact-root", "mlflow-artifacts:/"),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
    ]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # Its job runner is for evaluations by language models: six more processes, which may outlive the server.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)  # it names another server
    return LocalServer("MLflow", port, command, environment, "/health")


def on_servers(home: Home) -> dict[str, list[str]]:
    """The addresses of the runs that studies have on tracking servers, by study."""
    found = {}
    for name in _studies(home):
        kept = record(home.study(name))
        if kept is not None and kept.places:
            found[name] = [
                f"{place.uri}/#/experiments/{place.experiment_id} ({place.experiment})" for place in kept.places
            ]
    return found


def serve(home: Home, port: int, study: str | None = None, is_opening: bool = False) -> None:
    """Serves the store's runs until Ctrl-C, and says where those are that studies have on tracking servers.

    Args:
        study: whose runs to say alone; None: all studies'.
        is_opening: whether to open a browser.

    Raises:
        StoreError: if there is no store or no such study, or the server cannot run.
    """
    if study is not None and study not in _studies(home):
        raise StoreError(f"{unknown('study', study, _studies(home))} (store: {home.root})")
    elsewhere = {name: lines for name, lines in on_servers(home).items() if study in (None, name)}
    for name, lines in elsewhere.items():
        for line in lines:
            click.echo(f"{name}: {line}")
    if not home.mlflow_file.is_file():
        if elsewhere:
            return
        raise StoreError(f"there are no runs at {home.root}; launch a study there, or set SWEEPER_HOME")
    server = mlflow_server(home, port)
    browse(server, home, START, lambda: dict(_links(server, home, study)), is_opening)


def _studies(home: Home) -> list[str]:
    """The names of the studies that have a folder."""
    if not home.studies.is_dir():
        return []
    return sorted(folder.name for folder in home.studies.iterdir() if folder.is_dir() and is_valid_name(folder.name))


def _links(server: LocalServer, home: Home, study: str | None) -> Iterator[tuple[str, str]]:
    """Each study with runs in the store, the last that was begun first, and where MLflow shows them."""
    answer = server.get(
        "/api/2.0/mlflow/experiments/search", {"max_results": _PAGE, "order_by": ["creation_time DESC"]}
    )
    known = set(_studies(home))
    for experiment in answer.get("experiments", []):
        name, number = experiment["name"], experiment["experiment_id"]
        if name in known and study in (None, name):
            tags = {tag["key"] for tag in experiment.get("tags", [])}
            if VIEW_TAG in tags or _arrange(server, home, name, number):
                yield name, address(server.url, number)
            else:
                yield name, f"{server.url}/#/experiments/{number}/runs?workflowType=machine_learning"


def _arrange(server: LocalServer, home: Home, study: str, experiment: str) -> bool:
    """Gives an experiment from before there was one its view; False where the study's settings cannot be read."""
    try:
        view = RunsView.of(check.load(home.study(study)))
    except (StoreError, ConfigError):
        return False
    tag = {"experiment_id": experiment, "key": VIEW_TAG, "value": view.as_json()}
    server.get("/api/2.0/mlflow/experiments/set-experiment-tag", tag)
    return True
