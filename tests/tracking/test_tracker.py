"""One contract, three stores: what a Tracker promises, MLflow's here and on a server and the one in memory keep."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeper.errors import TrackingError
from sweeper.paths import Home
from sweeper.tracking.mlflow_server import ServerTracker
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import Place
from sweeper.tracking.tracker import BASELINE, STUDY, RunKey, RunState, Tracker
from sweeper.trial import RunKind
from tests.memory_tracker import MemoryTracker
from tests.tracking.server import as_member

TRIAL = RunKey(RunKind.TRIAL, 3)


@pytest.fixture(params=["memory", "mlflow", "server"])
def reopen(request: pytest.FixtureRequest, home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Tracker]:
    """Opens the same store again and again."""
    if request.param == "memory":
        tracker = MemoryTracker()
        return lambda: tracker
    if request.param == "server":
        server = request.getfixturevalue("server")
        as_member(monkeypatch)
        place, study_id = Place(server.uri, request.node.name), uuid.uuid4().hex
        return lambda: ServerTracker(home, "study", place, study_id)
    shutil.copy(request.getfixturevalue("migrated"), home.root)
    return lambda: MlflowTracker(home, "study")


def test_states_follow_a_trial_through_an_interruption(reopen: Callable[[], Tracker]) -> None:
    tracker = reopen()
    tracker.start(STUDY, "study", {}, {})
    tracker.start(BASELINE, "baseline", {}, {})
    tracker.start(TRIAL, "t03", {"rank": 8}, {"sweeper.state": "RUNNING"})
    tracker.end(BASELINE, RunState.FINISHED, {})
    tracker.end(TRIAL, RunState.SCHEDULED, {"sweeper.state": "WAITING"})
    tracker.end(STUDY, RunState.KILLED, {})
    expected = {STUDY: RunState.KILLED, BASELINE: RunState.FINISHED, TRIAL: RunState.SCHEDULED}
    assert tracker.states() == expected

    tracker = reopen()
    assert tracker.states() == expected
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03", {"rank": 8}, {"sweeper.state": "RUNNING"})
    assert tracker.states() == {**expected, STUDY: RunState.RUNNING, TRIAL: RunState.RUNNING}
    side = RunKey(RunKind.CONFIRMATION, 3)  # of the same number, and another run
    tracker.start(side, "confirm t00 seed 3", {}, {})
    tracker.end(side, RunState.FINISHED, {})
    tracker.flush()
    assert reopen().states() == {**tracker.states(), side: RunState.FINISHED, TRIAL: RunState.RUNNING}
    for state in (RunState.FINISHED, RunState.KILLED, RunState.FAILED):
        tracker.end(TRIAL, state, {})
        assert tracker.states()[TRIAL] is state


def metrics_of(tracker: Tracker, key: RunKey) -> dict[str, list[tuple[int, float]]]:
    """What a reader of the store sees, past the tracker."""
    if isinstance(tracker, MemoryTracker):
        return tracker.runs[key].metrics
    client, run = mlflow_run(tracker, key)
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(point.step, point.value) for point in history] for name, history in histories.items()}


def files_of(tracker: Tracker, key: RunKey, home: Home) -> dict[str, list[str]]:
    if isinstance(tracker, MemoryTracker):
        return tracker.runs[key].files
    client, run = mlflow_run(tracker, key)
    files: dict[str, list[str]] = {}
    if isinstance(tracker, ServerTracker):
        found = client.list_artifacts(run.info.run_id)
        found += [
            file for folder in found if folder.is_dir for file in client.list_artifacts(run.info.run_id, folder.path)
        ]
        paths = sorted(PurePosixPath(file.path) for file in found if not file.is_dir)
    else:
        root = home.artifacts / "study" / run.info.run_id / "artifacts"
        paths = sorted(PurePosixPath(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    for path in paths:
        files.setdefault("" if path.parent.name == "" else str(path.parent), []).append(path.name)
    return files


def mlflow_run(tracker: Tracker, key: RunKey) -> tuple[MlflowClient, Any]:
    assert isinstance(tracker, MlflowTracker)
    tracker.flush()
    client = tracker._client
    [run] = client.search_runs([tracker._experiment], f"tags.`sweeper.kind` = '{key.kind.value}'")
    return client, run


def test_metrics_are_kept_in_order_and_past_a_batch(reopen: Callable[[], Tracker]) -> None:
    tracker = reopen()
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03", {}, {})
    for step in range(2500):
        tracker.log(TRIAL, {"train/loss": 1.0 / (step + 1)}, step)
    tracker.flush()
    tracker.log(TRIAL, {"accuracy": 0.5}, 2500)
    tracker.end(TRIAL, RunState.FINISHED, {})
    metrics = metrics_of(tracker, TRIAL)
    assert metrics["train/loss"] == [(step, 1.0 / (step + 1)) for step in range(2500)]
    assert metrics["accuracy"] == [(2500, 0.5)]


def test_what_is_there_at_a_step_is_not_logged_again(reopen: Callable[[], Tracker]) -> None:
    tracker = reopen()
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03", {}, {})
    tracker.log(TRIAL, {"accuracy": 0.5, "macro_f1": 0.25}, 32)
    tracker.log_missing(TRIAL, "accuracy", [(32, {"accuracy": 0.5, "macro_f1": 0.25}), (64, {"accuracy": 0.75})])
    tracker.log_missing(TRIAL, "accuracy", [(64, {"accuracy": 0.75})])
    assert metrics_of(tracker, TRIAL) == {"accuracy": [(32, 0.5), (64, 0.75)], "macro_f1": [(32, 0.25)]}
    assert tracker.has(TRIAL)
    assert not tracker.has(BASELINE)


def test_files_come_and_go(reopen: Callable[[], Tracker], home: Home, tmp_path: Path) -> None:
    tracker = reopen()
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03", {}, {})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_text("w")
    tracker.log_file(TRIAL, adapter, "adapter")
    tracker.log_file(TRIAL, adapter / "weights")
    assert files_of(tracker, TRIAL, home) == {"adapter": ["weights"], "": ["weights"]}
    tracker.drop_files(TRIAL, "adapter")
    tracker.drop_files(TRIAL, "adapter")
    assert files_of(tracker, TRIAL, home) == {"": ["weights"]}
    with pytest.raises(OSError, match="gone"):
        tracker.log_file(TRIAL, tmp_path / "gone")


def test_mlflow_shows_parent_names_params_and_no_path(home: Home, migrated: Path) -> None:
    shutil.copy(migrated, home.root)
    tracker = MlflowTracker(home, "study")
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03 r8", {"rank": 8, "learning_rate": 0.5}, {"sweeper.state": "RUNNING"})
    tracker.end(TRIAL, RunState.FINISHED, {"sweeper.state": "COMPLETE"})
    (_, trial), (_, study) = mlflow_run(tracker, TRIAL), mlflow_run(tracker, STUDY)
    assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert trial.info.run_name == "t03 r8"
    assert trial.data.params == {"rank": "8", "learning_rate": "0.5"}
    assert trial.data.tags["sweeper.state"] == "COMPLETE"
    # No path of this machine is in the database, so the store may move.
    experiment = MlflowClient(tracking_uri=home.mlflow_url).get_experiment_by_name("study")
    assert str(home.root) not in trial.info.artifact_uri
    assert str(home.root) not in experiment.artifact_location


def test_what_an_interruption_left_out_comes_later(home: Home, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(migrated, home.root)
    tracker = MlflowTracker(home, "study")
    tracker.start(STUDY, "study", {}, {})
    with monkeypatch.context() as patched:
        patched.setattr(MlflowTracker, "_log_params", lambda *_: 1 / 0)
        tracker.start(TRIAL, "t03", {"rank": 8}, {})
        with pytest.raises(TrackingError, match="division by zero"):
            tracker.flush()
    again = MlflowTracker(home, "study")
    again.start(TRIAL, "t03", {"rank": 8}, {})
    again.start(TRIAL, "t03", {"rank": 8}, {})
    assert mlflow_run(again, TRIAL)[1].data.params == {"rank": "8"}


def test_a_run_that_a_person_deleted_stops_nothing(
    home: Home, migrated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(migrated, home.root)
    tracker = MlflowTracker(home, "study")
    for key in (STUDY, TRIAL):
        tracker.start(key, "run", {}, {})
    client, run = mlflow_run(tracker, TRIAL)
    client.delete_run(run.info.run_id)
    tracker = MlflowTracker(home, "study")
    tracker.log(TRIAL, {"accuracy": 0.5}, 1)
    tracker.log_file(TRIAL, tmp_path)
    tracker.drop_files(TRIAL, "adapter")
    tracker.end(TRIAL, RunState.FINISHED, {})
    tracker.flush()
    assert tracker.states() == {STUDY: RunState.RUNNING}
    assert "MLflow has no run of trial 3 any more" in caplog.text


def test_what_is_long_is_cut_and_no_secret_leaves(
    home: Home, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_PASSWORD", "kept-to-ourselves")
    shutil.copy(migrated, home.root)
    tracker = MlflowTracker(home, "study", "a" * 32)
    many = {f"p{number:03d}": number for number in range(120)}  # more than one batch
    tracker.start(
        STUDY, "study", {**many, "long": "x" * 7000}, {"sweeper.changes": "y" * 9000, "why": "kept-to-ourselves"}
    )
    tracker.end(STUDY, RunState.FINISHED, {"later": "at http://me:kept-to-ourselves@host"})
    _, run = mlflow_run(tracker, STUDY)
    assert len(run.data.params) == 121
    assert run.data.params["long"] == "x" * 5999 + "…"
    assert run.data.tags["sweeper.changes"] == "y" * 7999 + "…"
    assert run.data.tags["why"] == "[redacted]"
    assert run.data.tags["later"] == "at http://me:[redacted]@host"
    assert (run.data.tags["sweeper.study"], run.data.tags["sweeper.study_id"]) == ("study", "a" * 32)
    config = tmp_path / "config.yaml"
    config.write_text("description: kept-to-ourselves, and more")
    tracker.log_file(STUDY, config)
    logged = home.artifacts / "study" / run.info.run_id / "artifacts" / "config.yaml"
    assert logged.read_text() == "description: [redacted], and more"
    assert config.read_text() == "description: kept-to-ourselves, and more"


def test_nobody_is_told_of_mlflows_use() -> None:
    code = "import sweeper.tracking.mlflow_database; from mlflow.telemetry import get_telemetry_client as client; "
    quiet = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    ran = subprocess.run(
        [sys.executable, "-c", code + "print(client())"], env=environment, capture_output=True, text=True
    )
    assert ran.stdout == "None\n", ran.stdout + ran.stderr
