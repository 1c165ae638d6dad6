"""Trainings that are no trials: packed, resumable, and what a trial of the same configuration would be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sweeper.config import check
from sweeper.engine.pack import Pack
from sweeper.errors import TrackingError
from sweeper.events import EventLog
from sweeper.paths import Home, StudyPaths
from sweeper.preflight.forecast import MemoryForecast
from sweeper.retention.measure import CONSTRAINT
from sweeper.search.study import Search
from sweeper.search.views import view
from sweeper.tracking.tracker import STUDY, RunKey, RunState
from sweeper.trial import RunKind
from sweeper.worker.checkpoints import Checkpoints
from sweeper.worker.memory import MemoryLog, forecast_of, guarded
from sweeper.worker.recorder import trial_key
from sweeper.worker.side import SideResult, SideRuns
from sweeper.worker.side_records import SideRun, reconcile
from sweeper.worker.spending import Spending
from sweeper.worker.workbench import Workbench, set_up
from tests.housekeeping.conftest import write
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare
from tests.worker.test_confirmation import ON
from tests.worker.test_session import Elsewhere, StopAfter, run

KIND = RunKind.CONFIRMATION
PREFIXES = ("confirmation/", "learning_curve/")
PARAMS = {"rank": 8, "alpha_ratio": 1.0, "learning_rate": 0.01}


class Side:
    """Side runs of a study, with everything that they need."""

    def __init__(self, bench: Workbench, paths: StudyPaths, home: Home, guard: Any, tracker: MemoryTracker) -> None:
        self.bench, self.paths, self.config = bench, paths, check.load(paths)
        memory = MemoryLog(guard, bench.pack.planner, forecast_of(bench, self.config, guard, home.memory))
        self.log = EventLog(paths.events)
        keys = [*MemoryForecast.keys, *([CONSTRAINT] if self.config.retention.is_on else [])]
        self.spending = Spending(home, self.config, Search(home, self.config, keys), self.log)
        self.runs = SideRuns(KIND, paths, self.config, bench, memory, tracker, self.log, self.spending)

    def asked(self, number: int, seed: int = 0, subset: tuple[int, ...] | None = None) -> SideRun:
        params = self.config.trial_params(PARAMS)
        rhythm = self.config.rhythm(params, len(self.bench.pack.examples))
        return SideRun(number, f"run {number}", params, rhythm, seed, subset, searched=PARAMS)

    def train(self, runs: list[SideRun], stop: Callable[[], bool] = lambda: False) -> dict[int, SideResult] | None:
        return self.runs.train(runs, stop, ("test", self.bench.test))

    def checkpoints(self) -> list[int]:
        return [number for kind, number in self.paths.side_runs() if self.paths.side_checkpoint(kind, number).is_file()]

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.paths.events.read_text().splitlines())
        return [line for line in lines if line["event"] == kind]


def states(tracker: MemoryTracker) -> dict[int | None, RunState]:
    return {key.number: state for key, state in tracker.states().items() if key.kind is KIND}


@pytest.fixture
def side(prepare: Prepare, home: Home) -> Callable[..., Any]:
    @contextmanager
    def make(*overrides: str, tracker: MemoryTracker | None = None) -> Iterator[Side]:
        paths, tracker = prepare(*overrides), tracker or MemoryTracker()
        tracker.start(STUDY, "study", {}, {})
        with guarded(check.load(paths)) as guard:
            made = Side(set_up(check.load(paths), home, guard), paths, home, guard, tracker)
            try:
                with made.spending.running():
                    made.spending.set_up(made.bench)
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
    with side("study.name=parts", "train.examples=64", "engine.slots=2", tracker=tracker) as made:
        asked = [made.asked(number, seed=number) for number in range(3)]
        # By then the first two have come to their ends, but are not scored yet.
        assert made.train(asked, lambda: len(made.events("side_started")) == 3) is None
        assert states(tracker) == dict.fromkeys(range(3), RunState.SCHEDULED)
        assert made.bench.pack.slots == []
        assert made.checkpoints() == [0, 1, 2]
        assert made.train(asked, StopAfter(4)) is None
        parts = made.train(asked)
        assert set(states(tracker).values()) == {RunState.FINISHED}
        assert any(0 < event["step"] < event["steps"] for event in made.events("side_started"))
        assert made.checkpoints() == []

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
        # Its end is known at once, and a stop does not make it train again.
        assert made.train(asked, lambda: bool(made.paths.events.is_file() and made.events("side_ended"))) is None
        assert states(tracker) == {0: RunState.SCHEDULED, 1: RunState.KILLED}
        found = made.train(asked)
        assert found is not None
        assert [event["number"] for event in made.events("side_started")] == [0, 1, 0]
        assert {event["kind"] for event in made.events("evaluation")} == {"confirmation"}
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


class Down(MemoryTracker):
    """A server that no run can be ended on, once it is down."""

    is_down = False

    def end(self, key: RunKey, state: RunState, tags: dict[str, str]) -> None:
        if self.is_down:
            raise TrackingError("a tracking server must be reachable, but it is not")
        super().end(key, state, tags)


def test_a_server_that_is_down_costs_no_training(side: Callable[..., Any]) -> None:
    tracker = Down()
    with side("train.examples=64", "engine.slots=2", tracker=tracker) as made:
        asked = [made.asked(number, seed=number) for number in range(2)]
        tracker.is_down = True
        assert made.train(asked, StopAfter(8)) is None
        assert made.checkpoints() == [0, 1]
        with pytest.raises(TrackingError):
            made.train(asked)
        assert set(states(tracker).values()) == {RunState.RUNNING}
        # What had been kept by then is said to the server in the next session, and what was not goes on.
        tracker.is_down = False
        reconcile(made.paths, tracker, tracker.states())
        assert states(tracker) == {0: RunState.FINISHED, 1: RunState.SCHEDULED}
        found, ticks = made.train(asked), len(made.events("tick"))
        assert found is not None
        assert made.train(asked) == found
        assert len(made.events("tick")) == ticks
        for number in range(2):
            run_of = tracker.runs[RunKey(KIND, number)]
            assert (run_of.state, run_of.tags["sweeper.state"]) == (RunState.FINISHED, "COMPLETE")
            assert (found[number].scores or {})["accuracy"] == run_of.metrics["test/accuracy"][-1][1]


def test_one_whose_checkpoint_is_damaged_before_it_is_scored_is_trained_again(
    side: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with side("train.examples=16") as made:
        [whole] = (made.train([made.asked(0)]) or {}).values()
        save, damaged = Checkpoints.save, []

        def damage(checkpoints: Checkpoints, pack: Pack, slot: Any, state: Any = None) -> bool:
            is_saved = save(checkpoints, pack, slot, state)
            if not damaged:
                file = made.paths.side_checkpoint(KIND.value, slot.number)
                file.write_bytes(file.read_bytes()[:-1])
                damaged.append(slot.number)
            return is_saved

        monkeypatch.setattr(Checkpoints, "save", damage)
        [again] = (made.train([made.asked(1)]) or {}).values()
        assert damaged == [1]
        assert (again.curve, again.texts) == (whole.curve, whole.texts)
        assert [event["number"] for event in made.events("checkpoint_damaged")] == [1]
        assert [event["number"] for event in made.events("side_started")] == [0, 1, 1]


def test_their_runs_are_made_whole_after_a_kill_and_go_along_where_the_study_goes(prepare: Prepare, home: Home) -> None:
    settings = (*ON, "search.trials=1", "confirmation.top=1", "confirmation.seeds=1", "preflight.learning_curve=true")
    paths, tracker = prepare(*settings), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    kinds = (RunKind.CONFIRMATION, RunKind.LEARNING_CURVE)
    before = {key: copy.deepcopy(one) for key, one in tracker.runs.items() if key.kind in kinds}
    assert {key.kind for key in before} == set(kinds)

    # As a kill just behind their results leaves them, and one in the middle of its training.
    for key in before:
        one = tracker.runs[key]
        one.state, one.tags["sweeper.state"] = RunState.RUNNING, "RUNNING"
        one.metrics = {name: values for name, values in one.metrics.items() if "confirmation/" not in name}
    lost = next(key for key in before if key.kind is RunKind.LEARNING_CURVE)
    paths.side_result(lost.kind.value, lost.number or 0).unlink()
    write(paths.side_checkpoint("confirmation", next(key.number or 0 for key in before if key.kind is KIND)))
    assert run(paths, tracker) == {"status": "finished"}
    assert tracker.runs[lost].state is RunState.SCHEDULED
    for key, old in before.items():
        if key != lost:
            assert (tracker.runs[key].state, tracker.runs[key].tags) == (RunState.FINISHED, old.tags)
            if key.kind is RunKind.CONFIRMATION:
                trial = tracker.runs[trial_key(int(old.tags["sweeper.confirms"]))]
                assert old.params == {**trial.params, "seed": old.params["seed"]}
            assert {name: values[-1] for name, values in tracker.runs[key].metrics.items()} == {
                name: values[-1] for name, values in old.metrics.items()
            }
    assert list(paths.side.glob("*/checkpoint.safetensors")) == []

    elsewhere = Elsewhere()
    assert run(paths, elsewhere) == {"status": "finished"}
    for key, old in before.items():
        if key != lost:
            new = elsewhere.runs[key]
            assert (new.name, new.params, new.tags, new.state) == (old.name, old.params, old.tags, old.state)
            courses = tuple(f"{name}/" for name in ("train", "vram", "throughput"))  # and not how they ended
            assert new.metrics == {
                name: values
                for name, values in old.metrics.items()
                if not name.startswith(courses) or name.endswith(("_max", "_mean"))
            }
    for key in (STUDY, trial_key(0)):
        old, new = tracker.runs[key], elsewhere.runs[key]
        here, there = ({k: v for k, v in one.metrics.items() if k.startswith(PREFIXES)} for one in (old, new))
        assert here
        assert there == here
    assert {"learning_curve.json", "learning_curve.png"} <= set(elsewhere.runs[STUDY].files[""])
