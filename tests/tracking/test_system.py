"""MLflow's own system metrics, and what its pages are told of a study."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.paths import Home
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.opened import opened
from sweeper.tracking.tracker import STUDY, DatasetUse
from sweeper.tracking.view import RunsView, address
from tests.memory_tracker import MemoryTracker


@pytest.fixture
def tracker(home: Home, migrated: object, monkeypatch: pytest.MonkeyPatch) -> MlflowTracker:
    shutil.copy(str(migrated), home.root)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    made = MlflowTracker(home, "study")
    made.start(STUDY, "study", {}, {})
    return made


def steps(home: Home, name: str) -> list[int]:
    client = MlflowClient(tracking_uri=home.mlflow_url)
    [run] = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    return [point.step for point in client.get_metric_history(run.info.run_id, name)]


def test_system_metrics_end_with_the_session_and_go_on_with_the_next(tracker: MlflowTracker, home: Home) -> None:
    name = "system/cpu_utilization_percentage"
    with tracker.watching_system():
        time.sleep(0.5)
    assert not [thread for thread in threading.enumerate() if thread.name == "system metrics"]
    tracker.flush()
    first = steps(home, name)
    assert len(first) > 1
    with MlflowTracker(home, "study").watching_system():
        time.sleep(0.5)
    again = MlflowTracker(home, "study")
    again.flush()
    deadline = time.monotonic() + 20
    while len(both := steps(home, name)) == len(first) and time.monotonic() < deadline:
        time.sleep(0.1)  # the other tracker writes in its own time
    assert both == list(range(len(both)))
    assert len(both) > len(first)
    with MemoryTracker().watching_system():
        assert not [thread for thread in threading.enumerate() if thread.name == "system metrics"]


def test_a_study_whose_run_a_person_has_deleted_goes_on(tracker: MlflowTracker, home: Home) -> None:
    tracker.flush()
    client = MlflowClient(tracking_uri=home.mlflow_url)
    [run] = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    client.delete_run(run.info.run_id)
    tracker.log(STUDY, {"accuracy": 0.5}, 1)
    with tracker.watching_system():
        tracker.flush()


def test_an_experiment_opens_on_its_runs_with_columns_of_ours(
    tracker: MlflowTracker, home: Home, composed: Callable[..., Config]
) -> None:
    tracker.arrange(RunsView.of(composed("study=demo")))
    tracker.flush()
    tags = MlflowClient(tracking_uri=home.mlflow_url).get_experiment_by_name("study").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    shown = json.loads(tags["mlflow.sharedViewState.sweeper"])
    assert (shown["orderByKey"], shown["orderByAsc"]) == ("metrics.`best_value`", False)
    assert {"metrics.`accuracy`", "params.`rank`", "tags.`sweeper.state`"} < set(shown["selectedColumns"])
    assert address("http://localhost:5000", "7") == (
        "http://localhost:5000/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=sweeper"
    )


def test_rows_are_named_counted_and_hashed_without_text(tracker: MlflowTracker, home: Home) -> None:
    used = DatasetUse("tickets", "training", "ab" * 32, 96, "tickets", "tickets", ("text", "label"))
    for _ in range(2):  # as after an interruption
        tracker.log_datasets(STUDY, [used])
    tracker.flush()
    client = MlflowClient(tracking_uri=home.mlflow_url)
    [run] = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    [found] = run.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest, found.tags[0].value) == ("tickets", "ab" * 8, "training")
    assert json.loads(found.dataset.profile) == {"num_rows": 96, "sha256": "ab" * 32}


def test_the_settings_reach_the_tracker(home: Home, migrated: object, composed: Callable[..., Config]) -> None:
    shutil.copy(str(migrated), home.root)
    config = composed("study=demo", "tracking.patience_s=7")
    paths = home.study("demo")
    paths.create()
    check.save(config, paths)
    made = opened(paths, config, config.tracking.patience_s, spool="worker-0")
    assert isinstance(made, MlflowTracker)
    assert made._writer._patience_s == 7
    made.close()
