"""Studies whose metric or task is the user's own, in a session of this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config import check
from sweeper.custom import own
from sweeper.launching.tables import study_json
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import ranked, view
from sweeper.tracking.tracker import BASELINE, STUDY
from sweeper.worker.recorder import trial_key
from sweeper.worker.rerun import rerun
from sweeper.worker.session import Session
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare

METRIC = "objective.metric={_target_: scoring.cost, name: cost, wrong: 4.0}"
# More rows that are wrong cost more, and none of it depends on chance.
COST = """
def cost(rows, predictions, wrong):
    return {"cost": wrong * sum(row["label"] != said for row, said in zip(rows, predictions)) / len(rows)}
"""
Bring = Callable[..., StudyPaths]


@pytest.fixture
def bring(prepare: Prepare, tmp_path: Path) -> Bring:
    """Writes a short study that brings `scoring.py`, with its copy, as the launcher does."""

    def write(text: str, *overrides: str) -> StudyPaths:
        (tmp_path / "scoring.py").write_text(text)
        paths = prepare(f"study.folder={tmp_path}", *overrides)
        own.load(check.load(paths)).keep(paths.code)
        return paths

    return write


def test_the_lowest_wins(bring: Bring, home: Home) -> None:
    size = ("search.trials=3", "store.keep_adapters=1", "train.examples=48")
    paths, tracker = bring(COST, METRIC, "objective.direction=minimize", *size), MemoryTracker()
    assert Session(paths, tracker, lambda: False).run() == {"status": "finished"}
    seen, config = view(home, "demo"), check.load(paths)
    values = [trial.value for trial in seen.trials if trial.value is not None]
    assert len(set(values)) > 1
    assert seen.best is not None
    assert seen.best.value == min(values)
    assert [trial.value for trial in ranked(seen.trials)] == sorted(values)
    assert seen.attributes["adapters"] == [seen.best.number]
    for trial in seen.trials:
        assert trial.value == min(trial.evaluations)
        assert trial.metrics["cost"] == pytest.approx(4 * (1 - trial.metrics["accuracy"]))  # of the same evaluation
    assert {"cost", "accuracy", "macro_f1"} <= set(tracker.runs[BASELINE].metrics)
    assert "test/cost" in tracker.runs[STUDY].metrics
    status = study_json(seen, config)
    assert (status["direction"], status["metric"], status["ties"]) == ("minimize", "cost", [])
    assert status["code_sha256"] == tracker.runs[trial_key(0)].tags["sweeper.code_sha256"]
    assert status["code_sha256"] == tracker.runs[STUDY].tags["sweeper.code_sha256"]

    (paths.root.parent.parent.parent / "scoring.py").unlink()  # the copy is what runs
    again = rerun(home, "demo", seen.best.number, is_alone=False, announce=lambda _: None)
    assert (again.metric, again.largest_difference, again.tolerance) == ("cost", 0.0, 0.0)
    assert again.is_same


def test_code_is_tried_on_three_predictions_before_anything_is_scored(bring: Bring, home: Home) -> None:
    text = "def cost(rows, predictions, wrong):\n    raise ValueError(f'{len(rows)} rows, {len(predictions)} said')\n"
    paths, tracker = bring(text, METRIC), MemoryTracker()
    outcome = Session(paths, tracker, lambda: False).run()
    assert (outcome["status"], outcome["kind"], outcome["trace"]) == ("error", "CustomCodeError", None)
    assert 'scoring.py", line 2, in cost' in outcome["message"]
    assert "ValueError: 3 rows, 3 said" in outcome["message"]
    assert tracker.runs == {}
    seen = view(home, "demo")
    assert (seen.trials, "baseline" in seen.attributes) == ([], False)


def test_a_metric_has_no_name_that_the_task_has(bring: Bring) -> None:
    text = COST.replace('{"cost"', '{"accuracy": 1, "cost"')
    outcome = Session(bring(text, METRIC), MemoryTracker(), lambda: False).run()
    assert "must return other names than the task has, but returned accuracy" in outcome["message"]


def test_a_launch_that_measured_nothing_settles_no_direction(bring: Bring, home: Home) -> None:
    failing = COST.replace("return", "raise ValueError\n    return")
    assert Session(bring(failing, METRIC), MemoryTracker(), lambda: False).run()["status"] == "error"
    paths = bring(COST, METRIC, "objective.direction=minimize", "search.trials=2")
    assert Session(paths, MemoryTracker(), lambda: False).run() == {"status": "finished"}
    seen = view(home, "demo")
    assert seen.best is not None
    assert all(seen.best.value <= trial.value for trial in seen.trials)  # type: ignore[operator]
