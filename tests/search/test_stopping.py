"""When a search no longer pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.config.schema import Config, NoImprovementSection
from sweeper.errors import ConfigError
from sweeper.paths import Home
from sweeper.search.ended import Ended
from sweeper.search.stopping import no_longer_pays
from sweeper.search.study import Search
from sweeper.search.views import TrialView
from tests.launch.test_tables import scored, trial
from tests.search.conftest import RECORD, ask


def rule(trials: int | None = None, usd: float | None = None) -> NoImprovementSection:
    return NoImprovementSection(name="no-improvement", trials=trials, usd=usd)


def told(*values: float | None, error: float | None = 0.02, **changes: Any) -> list[TrialView]:
    """Trials in the order in which they ended, a dollar each."""
    made = []
    for number, value in enumerate(values):
        one = trial(number, value, told_at=1000.0 + number, spent_usd=1.0 + number, **changes)
        if value is not None and error is not None:
            one = replace(one, metrics=scored(value, error))
        elif value is not None:
            one = replace(one, metrics={"accuracy": value})
        made.append(one)
    return made


def stops_at(stop: NoImprovementSection, trials: list[TrialView]) -> int | None:
    """After how many trials the rule ends the search."""
    return next((n for n in range(len(trials) + 1) if no_longer_pays(stop, trials[:n], "accuracy")), None)


def test_a_search_ends_when_nothing_was_better_beyond_noise_for_so_many_trials() -> None:
    course = told(0.50, 0.60, 0.61, 0.55, 0.62, 0.66, None, 0.66, 0.60)
    # 0.61 and 0.62 are within √2 × 0.02 of 0.60; 0.66 is not.
    assert stops_at(rule(trials=3), course) == 5
    assert stops_at(rule(trials=4), course) is None
    assert stops_at(rule(trials=3), course[5:]) == 4  # one that the pruner stopped is a trial too
    found = no_longer_pays(rule(trials=3), course[:5], "accuracy")
    assert found == Ended(
        "stop.trials",
        "stop.trials=3: no trial since trial 1 (accuracy 0.6 ± 0.02) was better beyond noise: 3 trials, $3",
        {"since_trial": 1, "value": 0.60, "trials": 3, "usd": 3.0},
    )


def test_a_search_ends_when_so_many_dollars_bought_nothing_better() -> None:
    course = told(0.50, 0.60, 0.61, 0.55, 0.62)
    assert stops_at(rule(usd=2.5), course) == 5
    assert stops_at(rule(usd=2.0), course) == 4
    assert stops_at(rule(usd=3.5), course) is None
    assert stops_at(rule(trials=2, usd=3.0), course) == stops_at(rule(trials=3, usd=2.0), course) == 4
    found = no_longer_pays(rule(usd=2.0), course, "accuracy")
    assert found is not None
    assert found.key == "stop.usd"
    assert "stop.usd=2: no trial since trial 1" in found.message
    unpriced = [replace(one, spent_usd=None) for one in course]
    assert stops_at(rule(usd=2.0), unpriced) is None
    # The price was set later: dollars count from then on.
    assert stops_at(rule(usd=2.0), [*unpriced[:3], *course[3:], *told(*[0.5] * 6)[5:]]) == 6


def test_small_steps_add_up() -> None:
    creeping = told(*(0.60 + 0.01 * step for step in range(8)))
    assert (
        stops_at(rule(trials=3), creeping) is None
    )  # each is within noise of the last, every third is not of the mark
    assert stops_at(rule(trials=2), creeping) == 3


def test_without_standard_errors_any_improvement_counts() -> None:
    assert stops_at(rule(trials=2), told(0.5, 0.501, 0.502, 0.503, error=None)) is None
    assert stops_at(rule(trials=2), told(0.5, 0.5, 0.5, error=None)) == 3


def test_lower_is_better_where_the_metric_is_minimized() -> None:
    assert stops_at(rule(trials=2), told(2.0, 1.9, 1.8, 1.7, is_minimized=True)) is None
    assert stops_at(rule(trials=2), told(1.7, 1.8, 1.9, is_minimized=True)) == 3


def test_what_is_no_result_of_a_trial_neither_improves_nor_counts() -> None:
    better = {"told_at": 2000.0, "spent_usd": 3.0}
    forgets = trial(2, 0.9, constraints={"retention": 0.1}, **better)  # trained, but may not win
    others = [
        trial(2, 0.9, same_as=0, **better),
        trial(2, None, reason="infeasible", curve=(), examples_seen=0, **better),  # not trained
        replace(trial(2, None, **better), state="FAIL"),
        replace(trial(2, None, **better), state="RUNNING"),
    ]
    begun = told(0.6, 0.6)
    assert no_longer_pays(rule(trials=2), [*begun, forgets], "accuracy") is not None
    for other in others:
        assert no_longer_pays(rule(trials=2), [*begun, other], "accuracy") is None
    found = no_longer_pays(rule(trials=2), told(None, None), "accuracy")
    assert found is not None
    assert "no trial has given a result that keeps to the study's constraints: 2 trials, $2" in found.message


def test_the_order_is_that_in_which_trials_ended() -> None:
    late = told(0.9, 0.5, 0.5)
    late[0] = replace(late[0], told_at=5000.0)
    assert no_longer_pays(rule(trials=2), told(0.9, 0.5, 0.5), "accuracy") is not None
    assert no_longer_pays(rule(trials=2), late, "accuracy") is None


@given(
    values=st.lists(st.none() | st.floats(0, 1), max_size=12),
    error=st.none() | st.floats(0, 0.2),
    limit=st.integers(1, 5),
)
def test_a_longer_patience_never_ends_earlier(values: list[float | None], error: float | None, limit: int) -> None:
    course = told(*values, error=error)
    shorter, longer = (stops_at(rule(trials=patience), course) for patience in (limit, limit + 1))
    if longer is not None:
        assert shorter is not None
        assert limit <= shorter < longer
    # Each trial takes a dollar here, so dollars say the same.
    in_usd = stops_at(rule(usd=limit), course)
    assert in_usd == shorter


@given(st.lists(st.none() | st.floats(0, 1), max_size=10), st.randoms())
def test_the_order_in_which_trials_are_given_is_nothing(values: list[float | None], random: Any) -> None:
    course = told(*values)
    shuffled = random.sample(course, len(course))
    assert no_longer_pays(rule(trials=2), course, "accuracy") == no_longer_pays(rule(trials=2), shuffled, "accuracy")


def test_the_rule_is_never_by_default_and_needs_a_limit(composed: Callable[..., Config]) -> None:
    assert no_longer_pays(composed("study=demo").stop, told(*[0.5] * 40), "accuracy") is None
    assert composed("study=demo", "stop=no-improvement").stop == rule(trials=10)
    with pytest.raises(ConfigError, match=r"stop\.trials: this or stop\.usd must be set"):
        composed("study=demo", "stop=no-improvement", "stop.trials=null")


def test_the_storage_says_when_a_trial_ended_and_what_it_took(home: Home, composed: Callable[..., Config]) -> None:
    search = Search(home, composed("study=demo", "search.duplicates=train"))
    first, second = ask(search), ask(search)
    began = time.time()
    for asked, spent_usd in ((second, 0.25), (first, 0.75)):
        record = {**RECORD, "solo_s": 12.5, "spent_usd": spent_usd}
        search.complete(asked.number, 0.5, record, {})
    one, two = search.views()
    assert one.told_at is not None
    assert two.told_at is not None
    assert began - 1 <= two.told_at <= one.told_at <= time.time() + 1
    assert (one.solo_s, one.spent_usd, two.spent_usd) == (12.5, 0.75, 0.25)
    found = no_longer_pays(rule(trials=1), search.views(), "accuracy")
    assert found is not None
    assert found.figures == {"since_trial": 1, "value": 0.5, "trials": 1, "usd": 0.5}
