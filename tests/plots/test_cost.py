from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from sweeper.errors import StoreError
from sweeper.money.account import statement
from sweeper.money.bill import Bill
from sweeper.money.price import Price
from sweeper.plots.cost import draw
from tests.money.booked import PRICE, ledger_of, seen


@pytest.mark.parametrize("price", [PRICE, None, replace(PRICE, usd_per_hour=0.0), replace(PRICE, usd_per_hour=1e-6)])
def test_every_bill_is_drawn(price: Price | None, tmp_path: Path) -> None:
    engine, _ = ledger_of(price, "demo")
    found = statement(engine, seen(), price)
    file = tmp_path / "cost.png"
    draw(found, file)
    first = imread(file)
    assert first.std() > 0.05  # not blank
    draw(replace(found, bill=Bill(found.bill.lines[:1])), file)
    assert imread(file).shape == first.shape
    assert (imread(file) != first).any()  # it shows the bill
    assert [one.name for one in tmp_path.iterdir()] == ["cost.png"]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    engine, _ = ledger_of(None, "demo")
    with pytest.raises(StoreError, match=r"must go to a folder that can be written, but .*No such file"):
        draw(statement(engine, seen(), None), tmp_path / "missing" / "cost.png")
