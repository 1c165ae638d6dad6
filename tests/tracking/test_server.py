"""A server that others use too: a study runs there, and nothing of theirs is another afterwards."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sweeper.cli.main import main
from sweeper.errors import TrackingError
from sweeper.paths import Home
from sweeper.search.views import view
from sweeper.tracking.mlflow_probe import probe
from sweeper.tracking.mlflow_server import ServerTracker
from sweeper.tracking.place import Place, record
from sweeper.tracking.tracker import STUDY, RunState
from sweeper.worker.recorder import RUN_STATES
from tests.conftest import SHORT
from tests.tracking.server import MEMBER, Server, as_member, everything, free_port


@pytest.fixture(autouse=True)
def _member(monkeypatch: pytest.MonkeyPatch) -> None:
    as_member(monkeypatch)


def sweeper(home: Home, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments],
        env={**os.environ, "SWEEPER_HOME": str(home.root), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def foreign_run(server: Server, experiment_id: str, tmp_path: Path) -> str:
    """A run of somebody else, with a bit of everything; it even looks like a study's."""
    file = tmp_path / "theirs.txt"
    file.write_text("theirs")
    tags = {"sweeper.kind": "trial", "sweeper.trial": "0", "sweeper.study": "demo", "mlflow.runName": "t00"}
    run_id: str = server.admin.create_run(experiment_id, tags=tags).info.run_id
    server.admin.log_param(run_id, "rank", "8")
    server.admin.log_metric(run_id, "accuracy", 0.99, step=1)
    server.admin.log_artifact(run_id, str(file), "adapter")
    return run_id


def test_a_study_runs_beside_others_and_touches_none_of_them(
    server: Server, home: Home, few_tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = server.client(*MEMBER)
    shared = member.create_experiment("shared")
    foreign_run(server, shared, tmp_path)
    elsewhere = server.admin.create_experiment("elsewhere")
    foreign_run(server, elsewhere, tmp_path)
    theirs = [everything(server.admin, number, server) for number in (shared, elsewhere)]
    launch = ["launch", *SHORT, f"data.path={few_tickets}", "search.trials=2", "tracking.experiment=shared"]

    begun = time.monotonic()
    refused = sweeper(home, *launch, f"tracking.uri={server.uri}", MLFLOW_TRACKING_PASSWORD="not-the-one")
    assert time.monotonic() - begun < 30
    assert refused.returncode == 2
    assert f"{server.uri} refused it, as 'member' (401); set MLFLOW_TRACKING_USERNAME" in refused.stderr
    assert not home.optuna_file.exists()  # no worker was started

    # The environment names the server, with the password in its address.
    address = server.uri.replace("://", f"://{':'.join(MEMBER)}@")
    done = sweeper(home, *launch, MLFLOW_TRACKING_URI=address, MLFLOW_TRACKING_USERNAME="", MLFLOW_TRACKING_PASSWORD="")
    assert done.returncode == 0, done.stderr
    assert f"the runs go to experiment 'shared' at {server.uri}" in done.stdout
    assert not home.mlflow_file.exists()

    mine = {
        run.data.tags["mlflow.runName"]: run for run in member.search_runs([shared], "tags.`sweeper.study_id` != ''")
    }
    trials = view(home, "demo").trials
    assert len(mine) == 2 + len(trials) == 4
    kept = record(home.study("demo"))
    assert kept is not None
    assert {run.data.tags["sweeper.study_id"] for run in mine.values()} == {kept.study_id}
    for trial in trials:
        [run] = [run for run in mine.values() if run.data.tags.get("sweeper.trial") == str(trial.number)]
        assert run.info.status == RUN_STATES[trial.state].value
        assert run.data.params["rank"] == str(trial.params["rank"])
        history = member.get_metric_history(run.info.run_id, "accuracy")
        assert [point.value for point in history] == list(trial.evaluations)
        folder = member.download_artifacts(run.info.run_id, "", str(tmp_path))
        own = home.study("demo").trial(trial.number)
        assert (Path(folder) / "config.yaml").read_bytes() == (own / "config.yaml").read_bytes()
        weights = "adapter/adapter_model.safetensors"
        assert (Path(folder) / weights).read_bytes() == (own / weights).read_bytes()
    assert mine["demo"].info.status == "FINISHED"
    assert "test/accuracy" in mine["demo"].data.metrics
    for file in [path for path in home.root.rglob("*") if path.is_file()]:
        assert MEMBER[1].encode() not in file.read_bytes(), file
    assert MEMBER[1] not in done.stdout + done.stderr

    looked = CliRunner().invoke(main, ["ui"])
    assert (looked.exit_code, looked.stdout) == (0, f"demo: {server.uri}/#/experiments/{shared} (shared)\n")
    clean = ["clean", "demo", "--whole", "--yes"]
    with monkeypatch.context() as wrong:
        wrong.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-one")
        refused = CliRunner().invoke(main, clean)
        listed = CliRunner().invoke(main, ["list"])
    assert refused.exit_code == 2
    assert "a study is deleted everywhere or nowhere" in refused.stderr
    assert home.study("demo").config.is_file()
    assert (listed.exit_code, "finished" in listed.stdout) == (0, True)  # that asks no server
    gone = CliRunner().invoke(main, clean)
    assert gone.exit_code == 0, gone.stderr
    assert "4 runs in experiment 'shared'" in gone.stdout
    assert not home.study("demo").root.exists()
    assert [everything(server.admin, number, server) for number in (shared, elsewhere)] == theirs


def test_two_studies_of_one_name_know_their_own_runs(server: Server, home: Home) -> None:
    place = Place(server.uri, "two of one name")
    first, second = (ServerTracker(home, "study", place, study_id) for study_id in ("a" * 32, "b" * 32))
    first.start(STUDY, "study", {}, {})
    assert (first.states(), second.states()) == ({STUDY: RunState.RUNNING}, {})
    second.start(STUDY, "study", {}, {})
    second.end(STUDY, RunState.FINISHED, {})
    assert first.states() == {STUDY: RunState.RUNNING}
    assert ServerTracker(home, "study", place, "b" * 32).states() == {STUDY: RunState.FINISHED}


def test_the_preflight_leaves_nothing(server: Server) -> None:
    place = Place(server.uri, "probed")
    experiment_id, lines = probe(place, "a" * 32)
    assert lines == [f"the runs go to experiment 'probed' at {server.uri}"]
    assert server.admin.get_experiment(experiment_id).name == "probed"
    assert server.admin.search_runs([experiment_id]) == []
    assert not [path for path in (server.folder / "artifacts" / experiment_id).rglob("*") if path.is_file()]
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.fixture
def website() -> Iterator[str]:
    """A web server that is no MLflow, and answers everything with a page."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

        def log_message(self, *_: object) -> None:
            pass

    served = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def message(place: Place) -> str:
    with pytest.raises(TrackingError) as raised:
        probe(place, "a" * 32)
    return str(raised.value)


def test_what_the_preflight_refuses(
    server: Server, website: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(server.uri, "closed")
    server.admin.create_experiment("closed")
    assert "experiment 'closed' at" in message(place)
    assert "refused that, as 'member' (403); ask for EDIT on it" in message(place)

    deleted = server.client(*MEMBER).create_experiment("deleted")
    server.client(*MEMBER).delete_experiment(deleted)
    words = message(replace(place, experiment="deleted"))
    assert f"'deleted' at {server.uri} was deleted, and its name is still taken; restore it" in words
    assert f"restore --experiment-id {deleted}`" in words
    # As a server without --serve-artifacts has it; the folder is on its own machine.
    server.client(*MEMBER).create_experiment("far", artifact_location="file:///no/such/folder/7")
    assert "lie in the folder /no/such/folder of the server's machine" in message(replace(place, experiment="far"))
    (tmp_path / "near").mkdir()
    near = f"file://{tmp_path}/near/7"
    server.client(*MEMBER).create_experiment("near", artifact_location=near)
    probe(replace(place, experiment="near"), "a" * 32)  # the same machine, or a folder that both have

    assert f"at {website}, but what answers is none; see that it runs" in message(Place(website, "x"))
    nobody = f"http://127.0.0.1:{free_port()}"
    begun = time.monotonic()
    assert f"must be reachable, but {nobody} is not: " in message(Place(nobody, "x"))
    assert time.monotonic() - begun < 30
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    assert "refused it, without a name (401)" in message(place)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token-of-nobody")
    assert "with a token (401)" in message(place)
    assert "a-token-of-nobody" not in message(place)
