from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.launching.progress import Progress
from sweeper.search.views import StudyView
from tests.launch.test_tables import scored, trial

STARTED = {
    "event": "trial_started",
    "time": 100.0,
    "number": 3,
    "name": "t03 r8",
    "step": 0,
    "steps": 20,
    "is_informed": False,
}
EVALUATED = {
    "event": "evaluation",
    "number": 3,
    "index": 1,
    "examples": 40,
    "accuracy": 0.25,
    "macro_f1": 0.1,
    "accuracy_se": 0.02,
    "macro_f1_se": 0.02,
}


def ended(
    state: str,
    value: float | None,
    reason: str | None = None,
    same_as: int | None = None,
    violates: tuple[str, ...] = (),
    number: int = 3,
    is_rejected: bool = False,
) -> dict[str, Any]:
    event = {"event": "trial_ended", "number": number, "name": f"t{number:02d} r8", "state": state, "value": value}
    return {**event, "reason": reason, "same_as": same_as, "is_rejected": is_rejected, "violates": list(violates)}


def tick(time_s: float, *steps: tuple[int, int], peak_gib: float = 2.0, budget_gib: float = 8.0) -> dict[str, Any]:
    """A tick of trials at their steps, each of a thousand tokens."""
    slots = [{"number": number, "step": step, "loss": 1.5, "tokens": 1000 * step} for number, step in steps]
    return {
        "event": "tick",
        "time": time_s,
        "slots": slots,
        "memory": {"peak_gib": peak_gib, "budget_gib": budget_gib},
    }


def told(progress: Progress, event: dict[str, Any]) -> str | None:
    """Takes in an event of the first worker, unless it says of which."""
    return progress.apply({"worker": 0, **event})


def test_workers_are_told_apart() -> None:
    progress = Progress("demo", "accuracy", 16)
    for worker in (0, 1):
        told(progress, {"event": "loading", "model": "tiny", "worker": worker})
    assert progress.phase == "loading tiny"
    told(progress, STARTED)
    told(progress, {**STARTED, "number": 4, "worker": 1})
    told(progress, tick(101.0, (3, 5)))
    told(progress, {**tick(101.0, (4, 2), peak_gib=3.0), "worker": 1})
    slots = {number: one.slot for (_, number), one in progress.in_flight.items()}
    assert slots == {3: 0, 4: 1}  # a tick of one says nothing of the other's
    assert {worker: memory.now_gib for worker, memory in progress.memory.items()} == {0: 2.0, 1: 3.0}
    told(progress, {"event": "loading", "model": "tiny", "worker": 1})  # it has been started again
    assert progress.phase == "0: training, 1: loading tiny"
    assert [number for _, number in progress.in_flight] == [3]
    told(progress, {"event": "left", "worker": 1})
    assert progress.phase == "training"
    told(progress, ended("COMPLETE", 0.5))
    assert progress.ended_by == {0: 1}


def test_the_story_of_a_trial() -> None:
    progress = Progress("demo", "accuracy", 16)
    lines = [
        told(progress, event)
        for event in (
            {"event": "loading", "model": "tiny"},
            {"event": "baseline", "accuracy": 0.1, "macro_f1": 0.0, "accuracy_se": 0.01},
            {"event": "note", "message": "a start was left out"},
            STARTED,
            tick(101.0, (3, 7), (9, 1)),
            EVALUATED,
            ended("PRUNED", 0.25, "pruner"),
        )
    ]
    assert lines == [
        "loading tiny",
        "untuned base: validation accuracy 0.100 ± 0.010",
        "note: a start was left out",
        "t03 r8: started",
        None,
        "t03 r8: validation accuracy 0.250 ± 0.020 after 40 examples",
        "t03 r8: pruned (pruner) at accuracy 0.250; 1 of 16 ended",
    ]
    assert progress.best is None  # a pruned trial is never the best
    told(progress, STARTED)
    told(progress, ended("COMPLETE", 0.5))
    assert progress.best == (0.5, 3)
    assert progress.in_flight == {}


def test_what_a_trial_forgets_is_said_and_one_that_forgets_too_much_is_not_the_best() -> None:
    progress = Progress("demo", "accuracy", 16)
    events = (
        {"event": "retention_started"},
        {"event": "retention", "message": "perplexity 377"},
        STARTED,
        {**EVALUATED, "retention/drop": 0.45},
        ended("COMPLETE", 0.5, violates=("retention",)),
        {"event": "retention_full", "number": 2},
    )
    assert [told(progress, event) for event in events] == [
        None,
        "untuned base, retention: perplexity 377",
        "t03 r8: started",
        "t03 r8: validation accuracy 0.250 ± 0.020 after 40 examples, retention drop +0.450",
        "t03 r8: complete (violates retention) at accuracy 0.500; 1 of 16 ended",
        "scoring trial 2 on the whole retention suite",
    ]
    assert progress.best is None


def test_a_late_word_of_an_earlier_worker_is_passed_over() -> None:
    progress = Progress("demo", "accuracy", 16)
    assert told(progress, EVALUATED) is None
    assert "t03" in str(told(progress, ended("PRUNED", None)))


def test_trials_that_are_not_trained_are_said_too() -> None:
    progress = Progress("demo", "accuracy", 16)
    rejected = ended("PRUNED", None, "infeasible", is_rejected=True)
    assert told(progress, rejected) == "t03 r8: pruned (infeasible); 0 of 16 ended"  # it comes on top of the total
    line = told(progress, ended("COMPLETE", 0.5, same_as=1, number=4))
    assert line == "t04 r8: complete (the same as trial 1, not trained again) at accuracy 0.500; 1 of 16 ended"
    line = told(progress, {"event": "lease_lost", "number": 3, "message": "it is another worker's"})
    assert line == "warning: it is another worker's"


def test_where_less_is_better_the_lowest_is_the_best_so_far() -> None:
    progress = Progress("demo", "cost", 16, is_minimized=True)
    assert told(progress, {"event": "baseline", "cost": 4.5}) == "untuned base: validation cost 4.500"
    for number, value in enumerate((2.0, 1.0, 3.0)):
        told(progress, ended("COMPLETE", value, number=number))
    assert progress.best == (1.0, 1)


def test_slots_are_stable_and_taken_again() -> None:
    progress = Progress("demo", "accuracy", 16)
    for number in (0, 1, 2):
        told(progress, {**STARTED, "number": number})
    told(progress, ended("PRUNED", None, number=1))
    assert {number: one.slot for (_, number), one in progress.in_flight.items()} == {0: 0, 2: 2}
    told(progress, {**STARTED, "number": 3})
    assert progress.in_flight["trial", 3].slot == 1
    told(progress, tick(101.0, (2, 1), (3, 1)))  # trial 0 waits for memory, or to be told
    assert {number: one.slot for (_, number), one in progress.in_flight.items()} == {0: None, 2: 2, 3: 1}
    told(progress, tick(102.0, (0, 1), (2, 2), (3, 2)))
    assert progress.in_flight["trial", 0].slot == 0


@pytest.mark.parametrize("kind", [{"kind": "confirmation"}, {}])  # which has not always been told
def test_a_side_run_and_a_trial_of_one_number_are_two(kind: dict[str, str]) -> None:
    progress = Progress("demo", "accuracy", 16)
    side = {"number": 3, "kind": "confirmation", "name": "confirm t01 seed 3"}
    for event in (STARTED, tick(101.0, (3, 4)), {**STARTED, **side, "event": "side_started"}, tick(102.0, (3, 1))):
        told(progress, event)
    said = told(progress, {**EVALUATED, **kind})
    assert said is not None
    assert said.startswith("confirm t01 seed 3: validation accuracy 0.250")
    trial, other = progress.in_flight["trial", 3], progress.in_flight["confirmation", 3]
    assert (trial.step, trial.slot, trial.score) == (4, None, None)
    assert (other.step, other.score) == (1, 0.25)
    assert told(progress, {**side, "event": "side_ended", "failure": None}) == "confirm t01 seed 3: done"
    told(progress, tick(103.0, (3, 5)))
    assert (trial.step, trial.slot) == (5, 0)
    told(progress, ended("COMPLETE", 0.5))
    assert progress.in_flight == {}


def test_a_slots_speed_is_that_of_its_training_alone() -> None:
    progress = Progress("demo", "accuracy", 16)
    for event in (STARTED, tick(101.0, (3, 1)), tick(103.0, (3, 5))):
        told(progress, event)
    assert progress.in_flight["trial", 3].tokens_per_s == 2000
    for event in ({"event": "evaluating"}, tick(203.0, (3, 6))):
        told(progress, event)
    assert progress.in_flight["trial", 3].tokens_per_s == 2000  # the evaluation took no part
    told(progress, tick(204.0, (3, 7)))
    assert progress.in_flight["trial", 3].tokens_per_s == 1000


def test_memory_is_shown_as_it_is_and_at_its_highest() -> None:
    progress = Progress("demo", "accuracy", 16)
    told(progress, tick(1.0, budget_gib=0.0))  # nothing reads it
    assert progress.memory == {}
    for peak_gib in (2.0, 5.0, 3.0):
        told(progress, tick(1.0, peak_gib=peak_gib))
    memory = progress.memory[0]
    assert (memory.now_gib, memory.highest_gib, memory.budget_gib) == (3.0, 5.0, 8.0)


def test_after_a_resume_counts_and_best_are_the_studys(composed: Callable[..., Config]) -> None:
    config = composed("study=demo", "search.trials=6", "evaluation.count=4", "train.examples=64", "budget.hours=2")
    before = StudyView(
        "demo",
        [
            trial(0, 0.7, curve=({"examples": 16.0},) * 4),
            trial(1, None, reason="pruner", curve=({"examples": 16.0},)),
            trial(2, None, reason="infeasible", curve=(), examples_seen=0, constraints={"vram": 0.4}),
            trial(3, None, state="WAITING"),
        ],
        {"baseline": scored(0.1)},
    )
    progress = Progress.of(config, before, began_s=50.0)
    assert (progress.best, progress.baseline, progress.done, progress.limit_s) == ((0.7, 0), 0.1, 2, 7200)
    assert progress.counts == {"complete": 1, "pruned": 1, "infeasible": 1}
    assert progress.pace.shares == {0: 1.0, 1: 0.25}
    told(progress, {"event": "loading", "model": "tiny"})
    told(progress, STARTED)
    line = told(progress, ended("COMPLETE", 0.6))
    assert line == "t03 r8: complete at accuracy 0.600; 3 of 6 ended"
    assert told(progress, ended("COMPLETE", 0.6)) == line  # of an event that the storage had counted already
    assert progress.best == (0.7, 0)


def test_what_is_left_of_the_search() -> None:
    progress = Progress("demo", "accuracy", 5, limit_usd=1.0)
    assert progress.left_s(100.0) == (None, None)
    told(progress, STARTED)
    told(progress, tick(110.0, (3, 10)))
    assert progress.left_s(110.0) == (None, None)  # no trial has ended
    told(progress, tick(120.0, (3, 20)))
    told(progress, ended("COMPLETE", 0.5))
    assert progress.left_s(120.0) == (80.0, None)  # four more, of 20 s
    told(progress, {"event": "spent", "time": 120.0, "usd": 0.9, "device_s": 90.0, "usd_per_s": 0.01})
    assert progress.left_s(120.0) == (80.0, pytest.approx(10.0))
    assert progress.left_s(125.0) == (75.0, pytest.approx(5.0))
    progress.limit_trials = 3
    assert progress.left_s(120.0)[0] == 40.0
    progress.limit_trials = 1
    assert progress.left_s(120.0) == (None, None)  # the search is over


def test_a_worker_that_begins_has_nothing_in_flight() -> None:
    progress = Progress("demo", "accuracy", 16)
    for event in (STARTED, tick(101.0, (3, 7)), {"event": "loading", "model": "tiny"}):
        told(progress, event)
    assert (progress.in_flight, progress.memory) == ({}, {})
