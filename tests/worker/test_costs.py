from __future__ import annotations

import json
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeper.money.account import statement
from sweeper.money.price import Price
from sweeper.money.statement import Statement
from sweeper.paths import Home, StudyPaths
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import STUDY
from sweeper.worker import costs
from sweeper.worker.recorder import trial_key
from tests.memory_tracker import MemoryTracker
from tests.money.booked import PRICE, PRICED, ledger_of, seen

FILES = ["cost.json", "cost.csv", "cost.png"]


@pytest.fixture
def paths(home: Home) -> StudyPaths:
    made = home.study("demo")
    made.create()
    return made


def tracker() -> MemoryTracker:
    made = MemoryTracker()
    made.start(STUDY, "demo", {}, {})
    for trial in seen().trials:
        made.start(trial_key(trial.number), "t", {}, {})
    return made


def last(made: MemoryTracker, key: Any) -> dict[str, float]:
    return {name: points[-1][1] for name, points in made.runs[key].metrics.items()}


def account(price: Price | None) -> Statement:
    engine, _ = ledger_of(price, "demo")
    return statement(engine, seen(), price)


def test_a_trial_has_its_dollars_and_what_it_would_cost_alone() -> None:
    made = tracker()
    costs.log_trial(made, account(PRICE).trial(0), seen().trials[0])
    assert last(made, trial_key(0)) == {
        "cost/device_s": 25.0,
        "cost/usd": pytest.approx(0.025),
        "cost/usd_train": pytest.approx(0.020),
        "cost/usd_eval": pytest.approx(0.005),
        "cost/usd_solo": pytest.approx(0.030),
        "cost/solo_s": 30.0,
    }
    assert made.runs[trial_key(0)].metrics["cost/usd"][0][0] == 16  # examples seen


def test_without_a_price_there_are_seconds_alone_and_a_tag_says_so(paths: StudyPaths, composed: Any) -> None:
    made, found = tracker(), account(None)
    costs.log_all(made, paths, found, seen().trials)
    assert last(made, trial_key(0)) == {"cost/device_s": 25.0, "cost/solo_s": 30.0}
    assert not [name for name in last(made, STUDY) if "usd" in name]
    assert last(made, STUDY)["cost/device_s_winner"] == 25.0
    assert costs.tags(composed("study=demo")) == {
        "sweeper.price": "none (gpu.billing=on-demand needs gpu.price_usd_per_hour)"
    }
    priced = costs.tags(composed("study=demo", *PRICED))
    assert priced == {"sweeper.price": "$3.6 an hour (auto, on demand; nobody, 2026-11-01)"}


def test_the_study_has_its_split_as_numbers_table_and_picture(paths: StudyPaths) -> None:
    made, found = tracker(), account(PRICE)
    costs.log_study(made, paths, found, 64)
    metrics = last(made, STUDY)
    labels = {name: metrics[f"cost/usd_{name}"] for name in ("winner", "completed", "pruned", "infeasible", "failed")}
    assert labels == pytest.approx(
        {"winner": 0.025, "completed": 0.012, "pruned": 0.010, "infeasible": 0.0, "failed": 0.0}
    )
    assert metrics["cost/usd"] == pytest.approx(0.104)
    assert metrics["cost/useful_share"] == pytest.approx(0.5)
    assert metrics["cost/one_process_each_factor"] == pytest.approx(81 / 71)
    assert made.runs[STUDY].files[""] == FILES
    assert json.loads(paths.cost.read_text()) == found.as_dict()
    assert paths.cost_table.read_text(encoding="utf-8").splitlines() == found.csv().splitlines()
    assert set(FILES) <= paths.known


def test_a_picture_that_cannot_be_drawn_costs_no_number(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("sweeper.plots.cost._fill", "sweeper.worker.costs.dollars"):
        made = tracker()
        monkeypatch.setattr(broken, lambda *_: 1 / 0)
        costs.log_study(made, paths, account(PRICE), 64)
        assert made.runs[STUDY].files[""] == ["cost.json", "cost.csv"]


def test_all_that_have_ended_are_logged_those_too_that_a_killed_worker_had_not(paths: StudyPaths) -> None:
    made = tracker()
    costs.log_all(made, paths, account(PRICE), seen().trials)
    assert [key.number for key, run in made.runs.items() if run.metrics] == [None, 0, 1, 2, 3, 4]


def test_mlflow_has_them(home: Home, paths: StudyPaths, migrated: Any) -> None:
    migrated_file = home.mlflow_file
    migrated_file.write_bytes(migrated.read_bytes())
    made = MlflowTracker(home, "demo")
    made.start(STUDY, "demo", {}, {})
    for trial in seen().trials:
        made.start(trial_key(trial.number), "t", {}, {})
    costs.log_all(made, paths, account(PRICE), seen().trials)
    made.flush()
    client = MlflowClient(tracking_uri=home.mlflow_url)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    runs = {run.data.tags.get("sweeper.trial"): run for run in client.search_runs([experiment.experiment_id])}
    assert runs["0"].data.metrics["cost/usd"] == pytest.approx(0.025)
    assert runs[None].data.metrics["cost/usd_lost"] == pytest.approx(0.005)
    assert {file.name for file in (home.artifacts / "demo").rglob("cost.*")} == set(FILES)
