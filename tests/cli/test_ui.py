"""`sweeper ui`: a link for each study, and nothing left behind."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sweeper.cli.local_server import tunnel
from sweeper.cli.main import main
from sweeper.paths import Home
from sweeper.tracking.view import VIEW_TAG
from tests.benchmarks.many_trials import NAME
from tests.cli.serving import free_port, origin_of, serving


def wait_for(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def posted(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which a browser of a test writes what it is to open."""
    file = tmp_path / "opened"
    script = tmp_path / "browser.py"
    lines = ["import os, sys", f"file = {str(file)!r}", "open(file + '.part', 'w').write(sys.argv[1])"]
    script.write_text("\n".join([*lines, "os.replace(file + '.part', file)"]), encoding="utf-8")
    monkeypatch.setenv("BROWSER", f"{sys.executable} {script} %s")
    return file


@pytest.mark.parametrize(
    ("connection", "command"),
    [
        ("10.0.0.9 51234 10.0.0.5 22", "ssh -N -L 5000:127.0.0.1:5000 ann@10.0.0.5"),
        ("10.0.0.9 51234 203.0.113.7 40022", "ssh -N -L 5000:127.0.0.1:5000 -p 40022 ann@203.0.113.7"),
        ("", None),
    ],
)
def test_who_is_there_by_ssh_is_told_the_tunnel(
    monkeypatch: pytest.MonkeyPatch, connection: str, command: str | None
) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    assert tunnel(5000, {"SSH_CONNECTION": connection}) == command


def test_a_study_has_a_link_that_is_opened_if_that_is_asked_for(made_up: Home, opened: Path) -> None:
    with serving(made_up, NAME, "--open", ends=signal.SIGTERM) as link:
        found = posted(f"{origin_of(link)}/api/2.0/mlflow/experiments/search", {"max_results": 10})["experiments"]
        [experiment] = [one for one in found if one["name"] == NAME]
        assert (
            f"/#/experiments/{experiment['experiment_id']}/runs?workflowType=machine_learning&viewStateShareKey="
            in link
        )
        [view] = [json.loads(tag["value"]) for tag in experiment["tags"] if tag["key"] == VIEW_TAG]
        assert {"params.`rank`", "metrics.`best_value`"} <= set(view["selectedColumns"])
        wait_for(opened.is_file)
    assert opened.read_text() == link


@pytest.mark.parametrize("arguments", [[], ["--optuna"]])
def test_a_port_that_is_taken_is_said(made_up: Home, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(made_up.root))
    with socket.socket() as other:
        port = free_port()
        other.bind(("127.0.0.1", port))
        other.listen()
        done = CliRunner().invoke(main, ["ui", "--port", str(port), *arguments])
    assert done.exit_code == 2
    assert f"port {port} must be free" in done.output
    assert f"--port {port + 1}" in done.output


def test_an_unknown_study_is_said(made_up: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(made_up.root))
    done = CliRunner().invoke(main, ["ui", "mnay"])
    assert done.exit_code == 2
    assert "unknown study `mnay`; did you mean `many`?" in done.output


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Home(tmp_path)
    broken.study(NAME).create()
    broken.mlflow_file.write_text("no database")
    monkeypatch.setenv("SWEEPER_HOME", str(broken.root))
    done = CliRunner().invoke(main, ["ui", "--port", str(free_port())])
    assert done.exit_code == 2
    assert "MLflow must run until Ctrl-C, but has ended with 1" in done.output
    assert "file is not a database" in done.output


def test_the_dashboard_says_what_to_install(made_up: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(made_up.root))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["ui", "--optuna"])
    assert done.exit_code == 2
    assert "pip install 'sweeper[optuna-dashboard]'" in done.output
