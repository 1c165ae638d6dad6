"""A learning curve, measured by a worker: of a winner, and before a search."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sweeper.config import check
from sweeper.engine.slot import Tick
from sweeper.events import EventLog
from sweeper.launching.learning_curve import learning_curve
from sweeper.learning.curve import LearningCurve
from sweeper.learning.request import Request
from sweeper.paths import Home, StudyPaths
from sweeper.search.study import Search
from sweeper.search.views import view
from sweeper.tracking.tracker import STUDY, RunState
from sweeper.trial import RunKind
from sweeper.worker.learning_curve import LearningCurves, start_of
from sweeper.worker.session import Session
from tests.housekeeping.conftest import Make
from tests.housekeeping.conftest import make as make
from tests.learning.test_curve import curve
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare
from tests.worker.test_session import StopAfter, run

REQUEST = Request((0.25, 0.5, 1.0))


def measure(paths: StudyPaths, tracker: MemoryTracker, stop: Any = lambda: False, request: Any = REQUEST) -> Any:
    return Session(paths, tracker, stop, curve=request).run()


def events(paths: StudyPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.events.read_text().splitlines()]


def curve_runs(tracker: MemoryTracker) -> list[Any]:
    return [run for key, run in tracker.runs.items() if key.kind is RunKind.LEARNING_CURVE]


def test_the_curve_of_a_winner(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("search.trials=2", "engine.slots=3", "train.examples=64"), MemoryTracker()
    run(paths, tracker)
    before = view(home, "demo")
    assert before.best is not None

    # A stop leaves the study's run as it was, and the same request goes on.
    assert measure(paths, tracker, StopAfter(8))["status"] == "stopped"
    assert tracker.runs[STUDY].state is RunState.FINISHED
    assert "learning_curve" not in view(home, "demo").attributes
    assert measure(paths, tracker) == {"status": "finished"}
    assert any(event["event"] == "side_started" and event["step"] > 0 for event in events(paths))

    after = view(home, "demo")
    assert after.trials == before.trials  # Optuna hears of none of it
    assert (after.attributes["test"], after.attributes["baseline"]) == (
        before.attributes["test"],
        before.attributes["baseline"],
    )
    kept = LearningCurve.from_dict(after.attributes["learning_curve"])
    assert (kept.trial, kept.params, kept.seeds, kept.examples) == (before.best.number, before.best.params, (1,), 64)
    assert [point.rows for point in kept.points] == [24, 48, 96]
    assert all(0 <= point.value <= 1 and point.error > 0 for point in kept.points)
    assert len({point.value for point in kept.points}) > 1  # they saw other rows
    assert kept.forecast is not None
    runs = curve_runs(tracker)
    assert [one.params.get("train_rows") for one in runs] == [None, 48, 24]
    assert {one.state for one in runs} == {RunState.FINISHED}
    assert [one.metrics["accuracy"][-1][0] for one in runs] == [64] * 3  # as long as a trial, whatever they saw
    assert {"learning_curve.json", "learning_curve.png"} <= set(tracker.runs[STUDY].files[""])
    assert tracker.runs[STUDY].metrics["learning_curve/twice_high"][-1][1] == kept.forecast.high
    assert tracker.runs[STUDY].state is RunState.FINISHED
    assert paths.learning_curve_picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(paths.learning_curve.read_text()) == after.attributes["learning_curve"]
    assert {file.name for file in paths.root.iterdir()} <= paths.known

    # It is shown without another worker, unless more is asked for.
    assert learning_curve(home, "demo", "0.25,0.5,1", None, announce=print) == kept
    assert measure(paths, tracker, request=Request(REQUEST.fractions, seeds=2)) == {"status": "finished"}
    again = LearningCurve.from_dict(view(home, "demo").attributes["learning_curve"])
    assert again.seeds == (1, 2)
    assert [point.values[0] for point in again.points] == [point.value for point in kept.points]
    ended = [event["name"] for event in events(paths) if event["event"] == "side_ended"]
    assert len(ended) == len(curve_runs(tracker)) == 6  # the first seed was not trained again


def test_a_curve_before_the_search(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("search.trials=1", "engine.slots=4", "preflight.learning_curve=true"), MemoryTracker()
    run(paths, tracker)
    names = [event["event"] for event in events(paths)]
    assert names.index("side_ended") < names.index("trial_started")
    study = view(home, "demo")
    kept = LearningCurve.from_dict(study.attributes["learning_curve"])
    assert kept.trial is None
    assert kept.params == {"rank": 16, "alpha_ratio": 2.0, "learning_rate": pytest.approx(3e-3)}
    assert [point.rows for point in kept.points] == [12, 24, 48, 96]
    assert (len(study.trials), len(curve_runs(tracker))) == (1, 4)
    said = [event["message"] for event in events(paths)[: names.index("trial_started")] if event["event"] == "note"]
    assert said[-len(kept.sentences()) :] == kept.sentences()

    # Once is enough, and a study that goes on does not measure it again.
    prepare("search.trials=2", "preflight.learning_curve=true")
    run(paths, tracker)
    assert len(view(home, "demo").trials) == 2
    assert sum(event["event"] == "side_ended" for event in events(paths)) == 4


def test_a_training_that_diverges_leaves_no_curve(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, tracker = prepare("search.trials=1", "preflight.learning_curve=true", "train.examples=16"), MemoryTracker()
    with monkeypatch.context() as patch:
        patch.setattr(Tick, "is_finite", False)
        run(paths, tracker)  # and is no reason not to search
    [note] = [event["message"] for event in events(paths) if "preflight.learning_curve" in event.get("message", "")]
    assert "needs each training to come to its end, but not: curve start 96 rows (diverged), curve start 48" in note
    assert "learning_curve" not in view(home, "demo").attributes
    assert len(view(home, "demo").trials) == 1


def test_a_picture_that_cannot_be_drawn_costs_no_curve(make: Make, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, tracker, found = make(), MemoryTracker(), curve()
    config, log, spending = check.load(paths), EventLog(paths.events), SimpleNamespace()
    tracker.start(STUDY, paths.name, {}, {})
    monkeypatch.setattr("sweeper.plots.learning_curve._fill", lambda *_: 1 / 0)
    curves = LearningCurves(paths, config, Search(home, config), tracker, log, cast(Any, spending))
    curves._keep(found, 0.1)
    log.close()
    assert view(home, paths.name).attributes["learning_curve"] == found.as_dict()
    assert tracker.runs[STUDY].files[""] == ["learning_curve.json"]
    why = "the picture of the learning curve is left out: it cannot be drawn: ZeroDivisionError"
    assert events(paths)[-1]["message"] == why


def test_the_start_is_what_is_queued_or_the_middle_of_the_space(composed: Any) -> None:
    space = [
        "study=demo",
        "+search.space.schedule=[constant,cosine]",
        "+search.space.batch_size={low:8,high:32,step:8}",
    ]
    conditional = "+search.space.warmup_ratio={low:0.0,high:0.2,when:{schedule:cosine}}"
    assert start_of(composed(*space, conditional)) == {
        "rank": 16,
        "alpha_ratio": 2.0,
        "learning_rate": pytest.approx(3e-3),
        "schedule": "cosine",
        "batch_size": 24,
    }
    found = start_of(composed(*space, "search.enqueue=[{rank: 64, learning_rate: 1.0e-3}]"))
    assert (found["rank"], found["learning_rate"], found["alpha_ratio"]) == (64, 1e-3, 2.0)
