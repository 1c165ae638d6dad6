"""What trials score against what each costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.money.account import statement
from sweeper.money.statement import Statement
from sweeper.plots.cost_front import cost_front
from sweeper.plots.picture import LeftOut, Picture
from sweeper.search.views import StudyView
from tests.launch.test_tables import scored, trial
from tests.money.booked import PRICE, ledger_of
from tests.plots.conftest import drawn, inked, line, marks, words


@pytest.fixture
def config(composed_once: Any) -> Config:
    return composed_once("study=demo")


def study(**attributes: Any) -> StudyView:
    found = [(0.80, 20.0), (0.79, 12.0), (0.785, 40.0), (0.60, 5.0), (0.70, None)]
    trials = [trial(n, value, params={"rank": n + 1}, solo_s=s) for n, (value, s) in enumerate(found)]
    broken = trial(5, 0.99, solo_s=30.0, params={"rank": 9}, constraints={"retention": 0.1})
    return StudyView("demo", [*trials, broken], attributes)


def cost(seen: StudyView, priced: bool) -> Statement:
    price = PRICE if priced else None
    engine, _ = ledger_of(price, "demo")
    return statement(engine, seen, price)


def test_the_front_the_winner_and_what_is_as_good_for_less_are_marked(config: Config) -> None:
    seen = study(baseline=scored(0.1))
    made = cost_front(seen, config, cost(seen, priced=True))
    assert isinstance(made, Picture)
    axes = drawn(made)
    assert marks(axes, "winner, trial 0") == [(0.02, 0.80)]
    assert marks(axes, "trial 1, within noise") == [(0.012, 0.79)]
    assert marks(axes, "breaks a constraint") == [(0.03, 0.99)]
    assert line(axes, "best for the money") == [(0.005, 0.60), (0.012, 0.79), (0.02, 0.80)]
    assert {y for _, y in line(axes, "untuned base 0.1")} == {0.1}
    [errors] = axes.containers[0].lines[2]
    assert len(errors.get_segments()) == 5  # a standard error for each
    assert made.sentence == (
        "The winner, trial 0, scores 0.8 ± 0.02 for $0.0200 alone; trial 1, 0.79 ± 0.02, is within noise of it for "
        "$0.0120, 40% less."
    )


def test_without_prices_it_is_seconds(config: Config) -> None:
    seen = study()
    for found in (cost(seen, priced=False), None):
        made = cost_front(seen, config, found)
        assert isinstance(made, Picture)
        assert marks(drawn(made), "winner, trial 0") == [(20.0, 0.80)]
        assert "for 20 s alone" in made.sentence
        assert "device seconds, alone on the device" in words(made)


def test_what_is_not_known_is_not_claimed(config: Config) -> None:
    seen = study()
    without = replace(seen, trials=[replace(one, metrics={}) for one in seen.trials])
    made = cost_front(without, config, None)
    assert isinstance(made, Picture)
    assert made.sentence.endswith("accuracy has no standard error, so that what is as good for less is not known.")
    clear = replace(seen, trials=[one for one in seen.trials if one.number in (0, 3)])
    found = cost_front(clear, config, None)
    assert isinstance(found, Picture)
    assert found.sentence.endswith("nothing that costs less is within noise of it.")
    assert inked(found)
    nobody = cost_front(
        replace(seen, trials=[replace(one, constraints={"vram": 1.0}) for one in seen.trials]), config, None
    )
    assert isinstance(nobody, Picture)
    assert nobody.sentence == "5 complete trials, none of which may win yet."


def test_trials_that_take_as_long_are_not_compared(config: Config) -> None:
    alike = StudyView("demo", [trial(n, 0.5 + n / 10, solo_s=10.0 + n / 10) for n in range(3)], {})
    assert cost_front(alike, config, None) == LeftOut("cost_front", "all 3 complete trials take as long alone, 10 s")
    one = cost_front(StudyView("demo", [trial(0, 0.5)], {}), config, None)
    assert isinstance(one, LeftOut)
    assert "two complete trials whose time alone was measured, but there are 0" in one.reason
