"""Trainings that are no trials: packed, resumable, and what a trial of the same configuration would be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sweeper.config import check
from sweeper.engine.pack import Pack
from sweeper.events import EventLog
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import view
from sweeper.tracking.tracker import STUDY, MemoryTracker, RunKey, RunState
from sweeper.trial import RunKind
from sweeper.worker.memory import MemoryLog, forecast_of, guarded
from sweeper.worker.side import SideResult, SideRun, SideRuns
from sweeper.worker.workbench import Workbench, set_up
from tests.worker.conftest import Prepare
from tests.worker.test_session import StopAfter, run

KIND = RunKind.CONFIRMATION
PARAMS = {"rank": 8, "alpha_ratio": 1.0, "learning_rate": 0.01}


class Side:
    """Side runs of a study, with everything that they need."""

    def __init__(self, bench: Workbench, paths: StudyPaths, home: Home, guard: Any, tracker: MemoryTracker) -> None:
        self.bench, self.paths, self.config = bench, paths, check.load(paths)
        memory = MemoryLog(guard, bench.pack.planner, forecast_of(bench, self.config, guard, home.memory))
        self.log = EventLog(paths.events)
        self.runs = SideRuns(KIND, paths, self.config, bench, memory, tracker, self.log)

    def asked(self, number: int, seed: int = 0, subset: tuple[int, ...] | None = None) -> SideRun:
        params = self.config.trial_params(PARAMS)
        rhythm = self.config.rhythm(params, len(self.bench.pack.examples))
        return SideRun(number, f"run {number}", params, rhythm, seed, subset)

    def train(self, runs: list[SideRun], stop: Callable[[], bool] = lambda: False) -> dict[int, SideResult] | None:
        return self.runs.train(runs, stop, ("test", self.bench.test))

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.paths.events.read_text().splitlines())
        return [line for line in lines if line["event"] == kind]


@pytest.fixture
def side(prepare: Prepare, home: Home) -> Callable[..., Any]:
    @contextmanager
    def make(*overrides: str, tracker: MemoryTracker | None = None) -> Iterator[Side]:
        paths, tracker = prepare(*overrides), tracker or MemoryTracker()
        tracker.start(STUDY, "study", {}, {})
        with guarded(check.load(paths)) as guard:
            made = Side(set_up(check.load(paths), home, guard), paths, home, guard, tracker)
            try:
                yield made
            finally:
                made.log.close()

    return make


def test_a_side_run_is_what_a_trial_of_its_configuration_is(
    prepare: Prepare, home: Home, side: Callable[..., Any]
) -> None:
    start = str(PARAMS).replace("'", "")
    one = ("search.trials=1", "engine.slots=1", f"search.enqueue=[{start}]")
    assert run(prepare(*one), MemoryTracker()) == {"status": "finished"}
    [trial] = view(home, "demo").trials
    test, tracker = view(home, "demo").attributes["test"], MemoryTracker()
    with side(*one, tracker=tracker) as made:
        found = made.train([made.asked(3)])
        assert found is not None
        assert found[3].curve == list(trial.curve)
        assert found[3].metrics == trial.metrics
        assert found[3].scores == test["winner"]
        assert found[3].texts is not None
        assert len(found[3].texts) == 36
        run_of = tracker.runs[RunKey(KIND, 3)]
        assert (run_of.name, run_of.state, run_of.tags["sweeper.state"]) == ("run 3", RunState.FINISHED, "COMPLETE")
        assert [value for _, value in run_of.metrics["accuracy"]] == list(trial.evaluations)
        assert [value for _, value in run_of.metrics["test/accuracy"]] == [test["winner"]["accuracy"]]
        assert (len(view(home, "demo").trials), made.bench.pack.slots) == (1, [])


def test_an_interrupted_one_goes_on_and_one_that_is_there_is_not_trained_again(side: Callable[..., Any]) -> None:
    with side("study.name=whole", "train.examples=64") as made:
        whole = made.train([made.asked(number, seed=number) for number in range(3)])
    tracker = MemoryTracker()
    with side("study.name=parts", "train.examples=64", tracker=tracker) as made:
        asked = [made.asked(number, seed=number) for number in range(3)]
        assert made.train(asked, StopAfter(14)) is None
        states = {run.state for key, run in tracker.runs.items() if key.kind is KIND}
        assert RunState.SCHEDULED in states
        assert made.bench.pack.slots == []
        assert list(made.paths.root.glob("side/*/checkpoint.safetensors"))
        parts = made.train(asked)
        assert any(event["step"] > 0 for event in made.events("side_started"))
        assert list(made.paths.root.glob("side/*/checkpoint.safetensors")) == []

        def plain(found: dict[int, SideResult] | None) -> list[Any]:
            assert found is not None
            return [(one.number, one.curve, one.scores, one.texts) for one in found.values()]

        assert plain(parts) == plain(whole)
        # Seeds differ, and so do the runs; the same runs again are read from their folders.
        assert len({json.dumps(one.texts) for one in (parts or {}).values()}) == 3
        ticks = len(made.events("tick"))
        assert made.train(asked) == parts
        assert len(made.events("tick")) == ticks
        other = made.train([made.asked(1, seed=9)])
        assert len(made.events("tick")) > ticks
        assert other is not None
        assert other[1].texts != (parts or {})[1].texts


def test_one_that_diverges_has_no_scores_and_its_neighbour_does(
    side: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    admit = Pack.admit

    def admit_broken(pack: Pack, slot: Any, state: Any) -> None:
        if slot.number == 1 and slot.step == 0:
            state.tensors["weight"] = {k: torch.full_like(v, float("inf")) for k, v in state.tensors["weight"].items()}
        admit(pack, slot, state)

    monkeypatch.setattr(Pack, "admit", admit_broken)
    tracker = MemoryTracker()
    with side(tracker=tracker) as made:
        asked = [made.asked(number) for number in range(2)]
        found = made.train(asked)
        assert found is not None
        assert [one.failure for one in found.values()] == [None, "diverged"]
        assert (found[0].scores is None, found[1].scores) == (False, None)
        assert tracker.runs[RunKey(KIND, 1)].tags["sweeper.reason"] == "diverged"
        assert made.train(asked) == found


def test_one_sees_the_rows_of_its_subset_alone(side: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    items = Pack._items

    def spied(pack: Pack, batches: Any) -> Any:
        seen.update(row for batch in batches for row in batch)
        return items(pack, batches)

    monkeypatch.setattr(Pack, "_items", spied)
    subset = tuple(range(5, 17))
    with side("train.examples=24") as made:
        assert made.train([made.asked(0, subset=subset)], StopAfter(4)) is None  # a checkpoint knows the rows too
        made.train([made.asked(0, subset=subset)])
    assert seen == set(subset)
