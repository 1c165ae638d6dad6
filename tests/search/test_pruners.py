from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.config.schema import Config
from sweeper.paths import Home
from sweeper.search.study import Search
from sweeper.search.views import ranked, view
from sweeper.trial import Reason
from tests.search.conftest import RECORD, ask, complete, curve

Compose = Callable[..., Config]


def decisions(search: Search, *values: float) -> list[bool]:
    """What the pruner says after each evaluation of a new trial, which then stays in flight."""
    number = ask(search).number
    return [search.report(number, curve(*values[: index + 1]), may_prune=True) for index in range(len(values))]


def begun(composed: Compose, home: Home, *overrides: str) -> Search:
    """A study with four complete trials, their evaluations 0.1 apart."""
    search = Search(home, composed("study=demo", "search.trials=30", "evaluation.count=4", *overrides))
    for last in (0.4, 0.5, 0.6, 0.7):
        complete(search, ask(search).number, last - 0.3, last - 0.2, last - 0.1, last)
    return search


def test_median(composed: Compose, home: Home) -> None:
    search = begun(composed, home)
    assert decisions(search, 0.24) == [True]  # the median of 0.1, 0.2, 0.3, 0.4 is 0.25
    assert decisions(search, 0.26, 0.30, 0.44) == [False, True, True]  # its best so far against 0.25, 0.35, 0.45


def test_nothing_is_pruned_before_the_start_up_and_the_warm_up(composed: Compose, home: Home) -> None:
    assert decisions(begun(composed, home, "pruner.startup_trials=5"), 0.0, 0.0) == [False, False]


def test_warm_up(composed: Compose, home: Home) -> None:
    assert decisions(begun(composed, home, "pruner.warmup_evaluations=1"), 0.0, 0.0) == [False, True]


def test_percentile(composed: Compose, home: Home) -> None:
    """A quarter goes on: those above 0.325 of 0.1, 0.2, 0.3, 0.4."""
    search = begun(composed, home, "pruner=percentile")
    assert [decisions(search, value) for value in (0.32, 0.33)] == [[True], [False]]
    assert decisions(begun(composed, home, "pruner=percentile", "pruner.percentile=75", "study.name=b"), 0.2) == [False]


def test_patient(composed: Compose, home: Home) -> None:
    """Below the median all the way, but stopped only where it no longer improves."""
    search = begun(composed, home, "pruner=patient")
    assert decisions(search, 0.01, 0.02, 0.03) == [False, False, False]
    assert decisions(search, 0.03, 0.02, 0.01) == [False, False, True]
    search = begun(composed, home, "pruner=patient", "pruner.patience=0", "study.name=b")
    assert decisions(search, 0.03, 0.02) == [False, True]
    search = begun(composed, home, "pruner=patient", "pruner.min_delta=0.05", "study.name=c")
    assert decisions(search, 0.03, 0.02, 0.01) == [False, False, False]


def test_successive_halving(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "pruner=successive-halving", "evaluation.count=5"))
    assert decisions(search, 0.5) == [False]
    assert decisions(search, 0.4) == [True]  # of two, one goes on
    assert decisions(search, 0.6, 0.6, 0.6, 0.6) == [False] * 4
    assert decisions(search, 0.7, 0.5) == [False, True]  # at its second evaluation it is the worse of two
    search = Search(
        home, composed("study=demo", "study.name=late", "pruner=successive-halving", "pruner.min_evaluations=2")
    )
    decisions(search, 0.5, 0.5)
    assert decisions(search, 0.4, 0.4) == [False, True]


def test_hyperband_begins_later_in_later_brackets(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "pruner=hyperband", "evaluation.count=5", "search.trials=60"))
    first = set()
    for index in range(40):
        outcome = decisions(search, *[0.9 - index * 0.01] * 4)
        first.add(outcome.index(True) + 1 if any(outcome) else None)
    assert first - {None} == {1, 2, 4}  # evaluations


def test_none(composed: Compose, home: Home) -> None:
    search = begun(composed, home, "pruner=none")
    assert decisions(search, 0.0, 0.0, 0.0, 0.0) == [False] * 4


def test_a_last_evaluation_is_not_pruned(composed: Compose, home: Home) -> None:
    search = begun(composed, home)
    assert not search.report(ask(search).number, curve(0.0), may_prune=False)


def test_trials_that_were_pruned_are_told_so(composed: Compose, home: Home) -> None:
    search = begun(composed, home)
    number = ask(search).number
    assert search.report(number, curve(0.0), may_prune=True)
    search.prune(number, Reason.PRUNER, RECORD, {})
    trial = view(home, "demo").trials[number]
    assert (trial.state, trial.reason, trial.value) == ("PRUNED", "pruner", None)


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_pruning_looks_at_what_was_told_before_the_ask(
    composed: Compose, home: Home, deterministic: bool
) -> None:
    settings = ("engine.slots=2", "pruner.startup_trials=1", f"search.deterministic={str(deterministic).lower()}")
    search = Search(home, composed("study=demo", "search.trials=9", *settings))
    first, second = ask(search).number, ask(search).number
    complete(search, first, 0.9, 0.9)
    # The second was asked before the first was told: how quick that was must not matter.
    assert search.report(second, curve(0.1), may_prune=True) == (not deterministic)
    third = ask(search).number
    assert search.report(third, curve(0.1), may_prune=True)


@pytest.mark.parametrize("pruner", ["median", "successive-halving", "hyperband"])
def test_a_decision_is_the_same_again_after_a_kill(composed: Compose, home: Home, pruner: str) -> None:
    """The storage knows of later evaluations, or of a rung, than the checkpoint from which the trial goes on."""
    settings = ("pruner.startup_trials=1",) if pruner == "median" else ()
    config = composed("study=demo", f"pruner={pruner}", "evaluation.count=5", "search.trials=40", *settings)
    search = Search(home, config)
    for _ in range(8):
        complete(search, ask(search).number, 0.5, 0.6, 0.7, 0.8, 0.9)
    found = []
    for values in ((0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.1, 0.1), (0.9, 0.1, 0.95, 0.1)) * 3:
        number = ask(search).number
        before = [search.report(number, curve(*values[: index + 1]), may_prune=True) for index in range(4)]
        search.requeue(number, has_crashed=False)
        search = Search(home, config)
        assert ask(search).number == number
        again = [search.report(number, curve(*values[: index + 1]), may_prune=True) for index in range(4)]
        assert again == before
        found += before
        search.prune(number, Reason.PRUNER, RECORD, {})
    assert set(found) == {True, False}


def test_the_start_up_counts_trials_that_came_to_their_end(composed: Compose, home: Home) -> None:
    """The Gaussian process is told of rejected ones as if they were complete; the pruner is not."""
    search = Search(home, composed("study=demo", "sampler=gp"), ["vram"])
    for _ in range(3):
        search.prune(ask(search).number, Reason.INFEASIBLE, {"examples_seen": 0}, {"vram": 1.0})
    number = ask(search).number
    search.report(number, curve(0.9), may_prune=False)
    search.complete(number, 0.9, RECORD, {"vram": -1.0})
    assert decisions(search, 0.1) == [False]


LOW = ("objective.metric={_target_: scoring.cost, name: accuracy_lost}", "objective.direction=minimize")


def lost(*values: float) -> list[dict[str, float]]:
    return [{"examples": 10.0 * index, "accuracy_lost": value} for index, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("pruner", "values", "expected"),
    [
        ("median", (0.76,), [True]),  # the mirror image of the tests above
        ("median", (0.74, 0.70, 0.56), [False, True, True]),
        ("percentile", (0.68,), [True]),
        ("percentile", (0.67,), [False]),
        ("patient", (0.99, 0.98, 0.97), [False, False, False]),
        ("patient", (0.97, 0.98, 0.99), [False, False, True]),
    ],
)
def test_where_less_is_better_the_highest_are_pruned(
    composed: Compose, home: Home, pruner: str, values: tuple[float, ...], expected: list[bool]
) -> None:
    overrides = [f"pruner={pruner}", *LOW]
    search = Search(home, composed("study=demo", "search.trials=30", "evaluation.count=4", *overrides))
    for last in (0.6, 0.5, 0.4, 0.3):
        number, course = ask(search).number, lost(last + 0.3, last + 0.2, last + 0.1, last)
        for count in range(1, 5):
            search.report(number, course[:count], may_prune=False)
        search.complete(number, last, {**RECORD, "metrics": course[-1], "curve": course}, {})
    number = ask(search).number
    assert [
        search.report(number, lost(*values[: index + 1]), may_prune=True) for index in range(len(values))
    ] == expected


def test_where_less_is_better_the_gaussian_process_is_told_the_highest(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "sampler=gp", *LOW))
    for value in (0.4, 0.9, 0.6):
        number = ask(search).number
        search.report(number, lost(value), may_prune=False)
        search.complete(number, value, {**RECORD, "metrics": lost(value)[0], "curve": lost(value)}, {})
    number = ask(search).number
    search.prune(number, Reason.DIVERGED, {**RECORD, "curve": []}, {})
    assert search._study.get_trials(deepcopy=False)[number].value == 0.9
    seen = view(home, "demo")
    assert seen.best is not None
    assert (seen.best.value, [trial.value for trial in ranked(seen.trials)]) == (0.4, [0.4, 0.6, 0.9])
