from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.live import Live

from sweeper.launch.progress import Progress, _Live

STARTED = {"event": "trial_started", "number": 3, "name": "t03 r8", "step": 0, "steps": 20, "is_informed": False}
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
) -> dict[str, Any]:
    event = {"event": "trial_ended", "number": 3, "name": "t03 r8", "state": state, "value": value, "reason": reason}
    return {**event, "same_as": same_as, "violates": list(violates)}


def test_the_story_of_a_trial() -> None:
    progress = Progress("demo", "accuracy", 16)
    lines = [
        progress.apply(event)
        for event in (
            {"event": "loading", "model": "tiny"},
            {"event": "baseline", "accuracy": 0.1, "macro_f1": 0.0, "accuracy_se": 0.01},
            {"event": "note", "message": "a start was left out"},
            STARTED,
            {"event": "tick", "slots": [{"number": 3, "step": 7, "loss": 1.5}, {"number": 9, "step": 1, "loss": 2.0}]},
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
        "t03 r8: pruned (pruner) at accuracy 0.250; 1 ended in this session",
    ]
    assert progress.best is None  # a pruned trial is never the best
    progress.apply(STARTED)
    progress.apply(ended("COMPLETE", 0.5))
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
    assert [progress.apply(event) for event in events] == [
        None,
        "untuned base, retention: perplexity 377",
        "t03 r8: started",
        "t03 r8: validation accuracy 0.250 ± 0.020 after 40 examples, retention drop +0.450",
        "t03 r8: complete (violates retention) at accuracy 0.500; 1 ended in this session",
        "scoring trial 2 on the whole retention suite",
    ]
    assert progress.best is None


def test_a_late_word_of_an_earlier_worker_is_passed_over() -> None:
    progress = Progress("demo", "accuracy", 16)
    assert progress.apply(EVALUATED) is None
    assert "t03" in str(progress.apply(ended("PRUNED", None)))


def test_trials_that_are_not_trained_are_said_too() -> None:
    progress = Progress("demo", "accuracy", 16)
    assert progress.apply(ended("PRUNED", None, "infeasible")) == "t03 r8: pruned (infeasible); 1 ended in this session"
    line = progress.apply(ended("COMPLETE", 0.5, same_as=1))
    assert (
        line == "t03 r8: complete (the same as trial 1, not trained again) at accuracy 0.500; 2 ended in this session"
    )
    line = progress.apply({"event": "lease_lost", "number": 3, "message": "it is another worker's"})
    assert line == "warning: it is another worker's"


def test_the_table_shows_each_trial_in_flight() -> None:
    progress = Progress("demo", "accuracy", 16)
    for event in (STARTED, {"event": "tick", "slots": [{"number": 3, "step": 7, "loss": 1.5}]}, EVALUATED):
        progress.apply(event)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(progress.table())
    text = captured.get()
    assert "t03 r8" in text
    assert "7/20" in text
    assert "1.500" in text
    assert "0.250" in text


def test_a_checkpoint_that_is_missing_is_said_beside_the_live_table() -> None:
    console = Console(width=100, force_terminal=True)
    progress = Progress("demo", "accuracy", 16)
    with console.capture() as captured, Live(progress.table(), console=console) as live:
        screen = _Live(progress, live)
        screen.update([STARTED, {"event": "checkpoint_skipped", "number": 3, "message": "it must fit"}])
        screen.update([{"event": "checkpoint_damaged", "number": 3, "message": "its hash is another"}])
    text = captured.get()
    assert "warning: it must fit" in text
    assert "warning: its hash is another" in text


def test_where_less_is_better_the_lowest_is_the_best_so_far() -> None:
    progress = Progress("demo", "cost", 16, is_minimized=True)
    assert progress.apply({"event": "baseline", "cost": 4.5}) == "untuned base: validation cost 4.500"
    for number, value in enumerate((2.0, 1.0, 3.0)):
        ended = {
            "event": "trial_ended",
            "number": number,
            "name": "t",
            "state": "COMPLETE",
            "reason": None,
            "violates": [],
        }
        progress.apply({**ended, "value": value, "same_as": None})
    assert progress.best == (1.0, 1)


def test_what_is_spent_is_in_the_live_view_alone() -> None:
    progress = Progress("demo", "accuracy", 16)
    console = Console(width=120)
    shown = []
    for usd, limit in ((None, None), (0.0123, None), (0.25, "$0.50"), (None, "2 h")):
        event = {"event": "spent", "usd": usd, "device_s": 1234.6, "limit": limit}
        assert progress.apply(event) is None
        with console.capture() as captured:
            console.print(progress.table())
        shown.append(captured.get().partition("spent: ")[2].partition("\n")[0].strip())
    assert shown == [
        "1,235 device s",
        "$0.0123",
        "$0.250 of $0.50",
        "1,235 device s of 2 h",
    ]
