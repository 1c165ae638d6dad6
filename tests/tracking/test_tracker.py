"""One contract, two stores: what a Tracker promises, MLflow's and the one in memory keep."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeper.paths import Home
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import BASELINE, STUDY, MemoryTracker, RunKey, RunState, Tracker
from sweeper.trial import RunKind

TRIAL = RunKey(RunKind.TRIAL, 3)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds."""
    home = Home(tmp_path_factory.mktemp("migrated"))
    MlflowTracker(home, "unused")
    return home.root / "mlflow.db"


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


def test_mlflow_shows_children_params_metrics_and_files(home: Home, migrated: Path, tmp_path: Path) -> None:
    shutil.copy(migrated, home.root)
    tracker = MlflowTracker(home, "study")
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t03 r8", {"rank": 8, "learning_rate": 0.5}, {"sweeper.state": "RUNNING"})
    for step in range(2500):  # more than one batch
        tracker.log(TRIAL, {"train/loss": 1.0 / (step + 1)}, step)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_text("w")
    tracker.log_file(TRIAL, folder, "adapter")
    tracker.log_file(STUDY, folder / "weights")
    tracker.end(TRIAL, RunState.FINISHED, {"sweeper.state": "COMPLETE"})
    tracker.end(STUDY, RunState.FINISHED, {})

    client = MlflowClient(tracking_uri=home.mlflow_url)
    experiment = client.get_experiment_by_name("study")
    runs = {run.data.tags["sweeper.kind"]: run for run in client.search_runs([experiment.experiment_id])}
    trial = runs["trial"]
    assert trial.data.tags["mlflow.parentRunId"] == runs["study"].info.run_id
    assert trial.info.run_name == "t03 r8"
    assert trial.data.params == {"rank": "8", "learning_rate": "0.5"}
    assert trial.data.tags["sweeper.state"] == "COMPLETE"
    assert len(client.get_metric_history(trial.info.run_id, "train/loss")) == 2500
    assert (home.artifacts / "study" / trial.info.run_id / "artifacts" / "adapter" / "weights").is_file()
    # No path of this machine is in the database, so the store may move.
    assert str(home.root) not in trial.info.artifact_uri
    assert str(home.root) not in experiment.artifact_location

    tracker.drop_files(TRIAL, "adapter")
    tracker.drop_files(TRIAL, "adapter")
    assert not (home.artifacts / "study" / trial.info.run_id / "artifacts" / "adapter").exists()


def test_memory_keeps_what_mlflow_keeps(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    tracker.start(TRIAL, "t03", {"rank": 8}, {})
    tracker.log(TRIAL, {"accuracy": 0.5}, 10)
    (tmp_path / "f").write_text("x")
    tracker.log_file(TRIAL, tmp_path, "adapter")
    assert tracker.runs[TRIAL].metrics == {"accuracy": [(10, 0.5)]}
    assert tracker.runs[TRIAL].files == {"adapter": ["f"]}
    tracker.drop_files(TRIAL, "adapter")
    assert tracker.runs[TRIAL].files == {}
