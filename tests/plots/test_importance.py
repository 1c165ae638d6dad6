"""Which searched parameters matter."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.plots.importance import FEWEST, MOST, Importance, importance, importances
from sweeper.plots.picture import LeftOut, Picture
from sweeper.search.views import StudyView
from tests.launch.test_tables import trial
from tests.plots.conftest import drawn


@pytest.fixture
def config(composed_once: Any) -> Config:
    return composed_once("study=demo")


def study(count: int, noise: float = 0.01, **changes: Any) -> StudyView:
    """Trials of which the rank explains nearly everything."""
    drawn_at = random.Random(0)
    trials = []
    for number in range(count):
        rank, rate = drawn_at.choice([4, 8, 16, 32, 64]), 10 ** drawn_at.uniform(-3.5, -1.6)
        params = {"rank": rank, "alpha_ratio": drawn_at.choice([1.0, 2.0]), "learning_rate": rate}
        value = 0.34 + 0.47 * (rank == 64) + drawn_at.gauss(0, noise)
        trials.append(trial(number, value, params=params, **changes))
    return StudyView("demo", trials, {})


def test_the_one_that_matters_is_found_and_said_with_its_scores(config: Config) -> None:
    seen = study(40, noise=0.0)
    found = importances(seen, config)
    assert isinstance(found, Importance)
    assert next(iter(found.shares)) == "rank"
    assert found.shares["rank"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert importances(seen, config) == found  # the same each time
    made = importance(seen, config, found)
    assert isinstance(made, Picture)
    share = f"{found.shares['rank']:.0%}"
    assert made.sentence.startswith(f"rank matters most ({share} of the variance): 64 scores 0.81 in the mean, ")
    assert made.sentence.endswith("scores 0.34, by 40 complete trials.")
    axes = drawn(made)
    assert [bar.get_width() for bar in axes.patches] == list(found.shares.values())
    assert axes.texts[0].get_text() == share


def test_too_few_and_all_alike_are_left_out(config: Config) -> None:
    few = importances(study(FEWEST - 1), config)
    assert few == LeftOut("importance", f"it takes {FEWEST} complete trials, but there are {FEWEST - 1}")
    assert importance(study(3), config, few) == few
    alike = StudyView("demo", [trial(n, 0.5, params={"rank": 8 * (n % 2 + 1)}) for n in range(9)], {})
    assert importances(alike, config) == LeftOut("importance", "all 9 complete trials have the same value")
    same = StudyView("demo", [trial(n, n / 10, params={"rank": 8}) for n in range(9)], {})
    assert importances(same, config) == LeftOut("importance", "no parameter that every trial has differs between them")
    repeated = importances(study(9, same_as=0), config)
    assert isinstance(repeated, LeftOut)


def test_a_range_is_told_by_its_thirds(config: Config) -> None:
    trials = [
        trial(n, n / 30, params={"rank": 8, "alpha_ratio": 1.0, "learning_rate": 1e-3 * (n + 1)}) for n in range(30)
    ]
    seen = StudyView("demo", trials, {})
    made = importance(seen, config, importances(seen, config))
    assert isinstance(made, Picture)
    assert (
        "learning_rate matters most (100% of the variance): 0.021 to 0.03 scores 0.817 in the mean, 0.001 to 0.01 "
        in (made.sentence)
    )


def test_a_thousand_trials_take_no_longer_than_a_sample_of_them(config: Config) -> None:
    seen = study(1000)
    started = time.process_time()
    found = importances(seen, config)
    assert time.process_time() - started < 6.0  # 1.4 s on a machine that does nothing else
    assert isinstance(found, Importance)
    assert found.of == MOST
    made = importance(seen, config, found)
    assert isinstance(made, Picture)
    assert made.sentence.endswith("by 250 of 1000 complete trials.")
