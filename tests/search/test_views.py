"""Whose adapters stay, and who may still become the best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sweeper.config.schema import Config
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import HELD_BACK, StudyView, TrialView, kept_adapters
from tests.launch.test_tables import trial


def kept(home: Home, config: Config, trials: list[TrialView], **attributes: Any) -> list[int]:
    """Of trials whose adapters are all there."""
    paths = StudyPaths(home, "demo")
    for one in trials:
        paths.adapter(one.number).mkdir(parents=True, exist_ok=True)
    return kept_adapters(StudyView("demo", trials, attributes), paths, config)


def test_those_that_may_be_confirmed_stay_until_the_test_split_is_scored(
    home: Home, composed: Callable[..., Config]
) -> None:
    config = composed("study=demo", "store.keep_adapters=1", "confirmation.top=2")
    trials = [trial(number, 0.5 + number / 10, params={"rank": number + 1}) for number in range(4)]
    assert kept(home, config, trials) == [3]  # nothing is held back to confirm with
    assert kept(home, config, trials, **{HELD_BACK: 10}) == [3, 2]
    confirmed = {HELD_BACK: 10, "confirmation": {"top": 2, "finalists": [3, 2], "chosen": 2, "candidates": []}}
    assert kept(home, config, trials, **confirmed, test={"trial": 2}) == [3, 2]  # the best value, and the chosen one
    # More trials, of which one is now among the best: it is to be confirmed, though the winner of before was tested.
    trials = [*trials[:3], trial(3, 0.75, params={"rank": 4}), trial(4, 0.72, params={"rank": 5})]
    was = {"top": 2, "finalists": [3, 2], "chosen": 3, "candidates": []}
    assert kept(home, config, trials, **{HELD_BACK: 10, "confirmation": was}, test={"trial": 3}) == [3, 4]


def test_while_none_keeps_to_the_constraints_the_best_of_the_others_stays(
    home: Home, composed: Callable[..., Config]
) -> None:
    config = composed("study=demo")
    broken = [trial(number, 0.5 + number / 10, constraints={"retention": 0.1}) for number in range(3)]
    assert kept(home, config, broken) == [2]
    assert kept(home, config, [*broken, trial(3, 0.4)]) == [3]


def test_the_best_are_confirmed_once_where_rows_are_held_back(composed: Callable[..., Config]) -> None:
    trials, config = [trial(0, 0.5)], composed("study=demo", "confirmation.top=1")
    confirmed = {"top": 1, "finalists": [0], "chosen": 0, "candidates": []}
    assert StudyView("demo", trials, {HELD_BACK: 10}).must_be_confirmed(config)
    assert not StudyView("demo", trials, {}).must_be_confirmed(config)
    assert not StudyView("demo", [], {HELD_BACK: 10}).must_be_confirmed(config)
    assert not StudyView("demo", trials, {HELD_BACK: 10, "confirmation": confirmed}).must_be_confirmed(config)
    without = composed("study=demo", "confirmation.top=0")
    assert not StudyView("demo", trials, {HELD_BACK: 10}).must_be_confirmed(without)
