"""What is cheaper than the winner, and may be as good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.config.schema import Config
from sweeper.launching.tables import answer, study_json
from sweeper.money.bill import Bill, Label
from sweeper.money.statement import Statement, TrialCost
from sweeper.report.sentences import cheaper_line
from sweeper.search.views import StudyView, TrialView
from tests.launch.test_tables import text, trial


def study(*trials: tuple[float, float | None], **attributes: Any) -> StudyView:
    """Of (value, seconds alone); every trial a configuration of its own."""
    made = [trial(number, value, params={"rank": number + 1}, solo_s=s) for number, (value, s) in enumerate(trials)]
    return StudyView("demo", made, attributes)


def test_the_front_has_what_is_beaten_by_nothing_cheaper() -> None:
    seen = study((0.80, 20.0), (0.79, 12.0), (0.78, 15.0), (0.79, 12.0), (0.60, 9.0), (0.70, None))
    broken = trial(6, 0.99, solo_s=1.0, constraints={"vram": 0.1})
    again = trial(7, 0.80, solo_s=0.0, same_as=0)
    seen = replace(seen, trials=[*seen.trials, broken, again])
    assert [one.number for one in seen.pareto] == [0, 1, 4]
    lower = replace(seen, trials=[replace(one, is_minimized=True) for one in seen.trials])
    assert [one.number for one in lower.pareto] == [4]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_each_trial_is_on_the_front_or_beaten_by_one_that_is(points: list[tuple[int, int]]) -> None:
    seen = study(*((value / 5, float(seconds)) for value, seconds in points))

    def beats(one: TrialView, other: TrialView) -> bool:
        assert None not in (one.value, other.value, one.solo_s, other.solo_s)
        return one.value >= other.value and one.solo_s <= other.solo_s  # type: ignore[operator]

    front = seen.pareto
    assert all(any(beats(one, other) for one in front) for other in seen.trials)
    assert not any(beats(one, other) for one in front for other in front if one.number != other.number)


def test_a_cheaper_trial_within_noise_is_said(composed: Callable[..., Config]) -> None:
    config = composed("study=demo")
    seen = study((0.80, 20.0), (0.79, 12.0), (0.785, 10.0), (0.60, 1.0))
    expected = "Trial 2 takes 50% less and is within noise on the search's own rows (10 s alone instead of 20 s)."
    assert cheaper_line(seen, "accuracy") == expected
    assert expected in text(answer(seen, config))
    assert study_json(seen, config)["pareto"] == [0, 1, 2, 3]
    assert study_json(seen, config)["trials"][1]["solo_s"] == 12.0
    for nothing in (study((0.80, 20.0), (0.79, 19.9)), study((0.80, 20.0), (0.79, None)), study((0.80, None))):
        assert cheaper_line(nothing, "accuracy") is None


@pytest.mark.parametrize(
    ("usd", "said"),
    [((0.0212, 0.0108), ", $0.0108 instead of $0.0212)."), ((0.0, 0.0), "03 s)."), ((None, None), "03 s).")],
)
def test_what_is_cheaper_has_the_dollars_of_its_bill(
    composed: Callable[..., Config], usd: tuple[float | None, float | None], said: str
) -> None:
    """Which count electricity, where that is paid for."""
    seen = study((0.80, 2403.0), (0.79, 1245.0))
    trials = [TrialCost(one.number, one.state, Label.COMPLETED, one.params, Bill(()), one.solo_s, its)
              for one, its in zip(seen.trials, usd, strict=True)]  # fmt: skip
    cost = Statement("demo", Bill(()), (), tuple(trials), None, {}, None)
    line = cheaper_line(seen, "accuracy", cost) or ""
    assert "(20 min 45 s alone instead of 40 min 03 s" in line
    assert line.endswith(said)
    assert line in " ".join(text(answer(seen, composed("study=demo"), None, cost)).split())


def test_what_confirmation_told_from_the_winner_is_not_within_noise() -> None:
    found = {"top": 3, "finalists": [0, 1, 2], "leader": 0, "chosen": 0, "tied": [2], "versus": [], "candidates": [],
             "seeds": [1], "rows": 9, "metric": "accuracy"}  # fmt: skip
    seen = study((0.80, 20.0), (0.79, 12.0), (0.785, 30.0), confirmation=found)
    assert seen.confirmation is not None
    assert cheaper_line(seen, "accuracy") is None
