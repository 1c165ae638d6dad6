"""The picture of a bill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeper.money.account import statement
from sweeper.money.bill import Bill, Label
from sweeper.money.price import Price
from sweeper.plots.cost import DEAD_END, dollars
from sweeper.plots.picture import LIGHT, LeftOut, Picture
from tests.money.booked import PRICE, ledger_of, seen
from tests.plots.conftest import inked, words


@pytest.mark.parametrize("price", [PRICE, None, replace(PRICE, usd_per_hour=0.0), replace(PRICE, usd_per_hour=1e-6)])
def test_every_bill_is_drawn(price: Price | None) -> None:
    engine, _ = ledger_of(price, "demo")
    found = statement(engine, seen(), price)
    made = dollars(found)
    assert isinstance(made, Picture)
    assert inked(made)
    is_in_dollars = bool(price and price.usd_per_hour)
    assert ("dollars" if is_in_dollars else "device seconds") in made.title
    assert made.sentence == f"{found.sentence()}."
    one_line = dollars(replace(found, bill=Bill(found.bill.lines[:1])))
    assert isinstance(one_line, Picture)
    assert inked(one_line)


def test_each_bar_begins_where_the_last_one_ends_and_dead_ends_are_hatched() -> None:
    engine, _ = ledger_of(PRICE, "demo")
    found = statement(engine, seen(), PRICE)
    made = dollars(found)
    assert isinstance(made, Picture)
    [axes] = made.draw(LIGHT).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    bars = dict(zip(names, axes.patches, strict=True))
    assert names[-1] == "all"
    assert bars["all"].get_width() == pytest.approx(found.bill.usd)
    left = 0.0
    for name, bar in list(bars.items())[:-1]:
        assert bar.get_x() == pytest.approx(left)
        assert bar.get_width() == pytest.approx(found.bill.of(Label(name)).usd)
        assert bar.get_hatch() == (DEAD_END if name in ("pruned", "infeasible", "failed", "lost") else None)
        left += bar.get_width()
    assert "dead ends" in words(made)


def test_nothing_booked_is_nothing_to_draw() -> None:
    engine, _ = ledger_of(None, "demo")
    found = statement(engine, seen("other"), None)
    assert dollars(found) == dollars(None) == LeftOut("dollars", "nothing is booked of it")
