"""One contract, two stores: what a Tracker promises, MLflow's and the one in memory keep."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeper.paths import Home
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import BASELINE, STUDY, MemoryTracker, RunKey, RunState, Tracker
from sweeper.trial import RunKind

TRIAL = RunKey(RunKind.TRIAL, 3)


@pytest.fixture(params=["memory", "mlflow"])
def reopen(request: pytest.FixtureRequest, home: Home) -> Callable[[], Tracker]:
    """Opens the same store again and again."""
    if request.param == "memory":
        tracker = MemoryTracker()
        return lambda: tracker
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
    for state in (RunState.FINISHED, RunState.KILLED, RunState.FAILED):
        tracker.end(TRIAL, state, {})
        assert tracker.states()[TRIAL] is state


def metrics_of(tracker: Tracker, home: Home, key: RunKey) -> dict[str, list[tuple[int, float]]]:
    """What a reader of the store sees, past the tracker."""
    if isinstance(tracker, MemoryTracker):
        return tracker.runs[key].metrics
    client = MlflowClient(tracking_uri=home.mlflow_url)
    run = mlflow_run(home, key)
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(point.step, point.value) for point in history] for name, history in histories.items()}


def files_of(tracker: Tracker, home: Home, key: RunKey) -> dict[str, list[str]]:
    if isinstance(tracker, MemoryTracker):
        return tracker.runs[key].files
    root = home.artifacts / "study" / mlflow_run(home, key).info.run_id / "artifacts"
    files: dict[str, list[str]] = {}
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        files.setdefault("" if file.parent == root else str(file.parent.relative_to(root)), []).append(file.name)
    return files


def mlflow_run(home: Home, key: RunKey) -> Any:
    client = MlflowClient(tracking_uri=home.mlflow_url)
    experiment = client.get_experiment_by_name("study")
    [run] = client.search_runs([experiment.experiment_id], f"tags.`sweeper.kind` = '{key.kind.value}'")
    return run


def test_metrics_are_kept_in_order_and_past_a_batch(reopen: Callable[[], Tracker], home: Home) -> None:
    tracker = reopen()
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03", {}, {})
    for step in range(2500):
        tracker.log(TRIAL, {"train/loss": 1.0 / (step + 1)}, step)
    tracker.flush()
    tracker.log(TRIAL, {"accuracy": 0.5}, 2500)
    tracker.end(TRIAL, RunState.FINISHED, {})
    metrics = metrics_of(tracker, home, TRIAL)
    assert metrics["train/loss"] == [(step, 1.0 / (step + 1)) for step in range(2500)]
    assert metrics["accuracy"] == [(2500, 0.5)]


def test_files_come_and_go(reopen: Callable[[], Tracker], home: Home, tmp_path: Path) -> None:
    tracker = reopen()
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03", {}, {})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_text("w")
    tracker.log_file(TRIAL, adapter, "adapter")
    tracker.log_file(TRIAL, adapter / "weights")
    assert files_of(tracker, home, TRIAL) == {"adapter": ["weights"], "": ["weights"]}
    tracker.drop_files(TRIAL, "adapter")
    tracker.drop_files(TRIAL, "adapter")
    assert files_of(tracker, home, TRIAL) == {"": ["weights"]}
    with pytest.raises(OSError, match="gone"):
        tracker.log_file(TRIAL, tmp_path / "gone")


def test_mlflow_shows_parent_names_params_and_no_path(home: Home, migrated: Path) -> None:
    shutil.copy(migrated, home.root)
    tracker = MlflowTracker(home, "study")
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03 r8", {"rank": 8, "learning_rate": 0.5}, {"sweeper.state": "RUNNING"})
    tracker.end(TRIAL, RunState.FINISHED, {"sweeper.state": "COMPLETE"})
    trial, study = mlflow_run(home, TRIAL), mlflow_run(home, STUDY)
    assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert trial.info.run_name == "t03 r8"
    assert trial.data.params == {"rank": "8", "learning_rate": "0.5"}
    assert trial.data.tags["sweeper.state"] == "COMPLETE"
    # No path of this machine is in the database, so the store may move.
    experiment = MlflowClient(tracking_uri=home.mlflow_url).get_experiment_by_name("study")
    assert str(home.root) not in trial.info.artifact_uri
    assert str(home.root) not in experiment.artifact_location
