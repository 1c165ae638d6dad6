"""What is still to be done, in seconds, and what a budget allows of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweeper.config.schema import BudgetSection
from sweeper.money.budget import Sizes, Spent, Workload, exceeded, in_words
from sweeper.money.pace import Fit, Pace
from sweeper.search.ended import Ended, holds
from sweeper.trial import Rhythm

SIZES = Sizes(
    row_tokens=10.0, passage_tokens=20.0, rows=50, items=8, items_in_full=80, confirmation_rows=30, test_rows=100
)
RHYTHM = Rhythm(interval_examples=32, evaluations=4, batch_size=8)  # 16 steps, 128 examples


def line(intercept: float, slope: float) -> Fit:
    fit = Fit()
    for size in (10.0, 20.0, 30.0, 40.0):
        fit.add(size, intercept + slope * size)
    return fit


PACE = Pace(setup_s=7.0, tick=line(0.5, 0.01), rows=line(0.0, 0.1), items=line(0.0, 0.2))
WORK = Workload(PACE, SIZES)


@pytest.fixture
def params(composed: Any) -> Any:
    return lambda **sampled: composed("study=demo").trial_params(sampled)


def test_a_trial_is_its_steps_its_tokens_and_what_is_scored(params: Any) -> None:
    training_s = 16 * 0.5 + 128 * 10 * 0.01
    scoring_s = 4 * (50 * 0.1 + 8 * 0.2)
    assert WORK.trial_s(params(), RHYTHM) == pytest.approx(training_s + scoring_s + 80 * 0.2)
    # From its third evaluation on, half of it is left; what it keeps of the base in full comes at the end.
    assert WORK.trial_s(params(), RHYTHM, 2) == pytest.approx(training_s / 2 + scoring_s / 2 + 80 * 0.2)
    # A passage for every three rows.
    assert WORK.trial_s(params(replay=0.25), RHYTHM) == pytest.approx(
        training_s + 128 / 3 * 20 * 0.01 + scoring_s + 80 * 0.2
    )


def test_trials_that_train_together_share_what_a_step_takes_whatever_its_size(params: Any) -> None:
    work = Workload(replace(PACE, rows=line(2.0, 0.1), items=line(3.0, 0.2)), SIZES)
    training_s, scoring_s = 16 * 0.5 / 4 + 128 * 10 * 0.01, 4 * (50 * 0.1 + 2 / 4 + 8 * 0.2 + 3 / 4)
    assert work.trial_s(params(), RHYTHM, together=4.0) == pytest.approx(training_s + scoring_s + 80 * 0.2 + 3)
    confirming_s = 2 * (training_s + scoring_s) + 3 * (30 * 0.1 + 2)
    assert work.confirming_s(params(), RHYTHM, seeds=2, together=4.0) == pytest.approx(confirming_s)


def test_what_comes_after_the_search(params: Any) -> None:
    training_s, scoring_s = 16 * 0.5 + 128 * 10 * 0.01, 4 * (50 * 0.1 + 8 * 0.2)
    each_s = training_s + scoring_s + 30 * 0.1
    assert WORK.confirming_s(params(), RHYTHM, seeds=2) == pytest.approx(2 * each_s + 30 * 0.1)
    assert WORK.testing_s() == pytest.approx(3 * 100 * 0.1)
    slow = Workload(replace(PACE, rows=line(2.0, 0.1)), SIZES)  # 2 s for each go at rows, whatever their number
    each_s += 4 * 2 + 2
    assert slow.confirming_s(params(), RHYTHM, seeds=2) == pytest.approx(2 * each_s + 30 * 0.1 + 2)
    assert slow.testing_s() == pytest.approx(3 * (100 * 0.1 + 2))


def test_what_exceeds_which_limit() -> None:
    both = BudgetSection(usd=1.0, hours=2.0, trials=None)
    assert exceeded(both, Spent(7199.0, 0.99)) is None
    assert exceeded(both, Spent(7199.0, 1.0)) == "budget.usd"
    assert exceeded(both, Spent(7200.0, 0.5)) == "budget.hours"
    assert exceeded(both, Spent(7199.0, None)) is None  # without a price no dollar is counted
    assert exceeded(BudgetSection(usd=None, hours=None, trials=1), Spent(1e9, 1e9)) is None
    assert Spent(10.0, 1.0).plus(5.0, 0.1) == Spent(15.0, 1.5)
    assert Spent(10.0, None).plus(5.0, 0.1) == Spent(15.0, None)
    assert in_words(both, "budget.usd", Spent(3600.0, 0.4125)) == "$0.4125 of budget.usd=1"
    assert in_words(both, "budget.hours", Spent(3600.0, 0.4)) == "1 device hours of budget.hours=2"


@pytest.mark.parametrize(
    ("key", "before", "raised", "same"),
    [
        ("budget.usd", "budget.usd=1", "budget.usd=2", "budget.usd=0.5"),
        ("budget.hours", "budget.hours=1", "budget.hours=null", "budget.hours=1"),
        ("budget.trials", "budget.trials=3", "budget.trials=4", "budget.trials=2"),
    ],
)
def test_a_limit_that_is_raised_ends_nothing_any_more(
    composed: Any, key: str, before: str, raised: str, same: str
) -> None:
    kept = Ended(key, "it is spent", {"spent_usd": 1.0}).kept(composed("study=demo", before), is_closed=True)
    assert kept["message"] == "it is spent"
    assert kept["figures"] == {"spent_usd": 1.0}
    assert kept["is_closed"]
    assert holds(kept, composed("study=demo", same))
    assert not holds(kept, composed("study=demo", raised))
    assert not holds(None, composed("study=demo"))


def test_another_stop_rule_goes_on(composed: Any) -> None:
    rule = ["study=demo", "stop=no-improvement"]
    kept = Ended("stop.trials", "no better for 10 trials").kept(composed(*rule), is_closed=True)
    assert holds(kept, composed(*rule, "search.trials=99"))
    assert not holds(kept, composed(*rule, "stop.trials=20"))
    assert not holds(kept, composed("study=demo"))
