"""What `status` says of costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import create_engine

from sweeper.config.schema import Config
from sweeper.launching.tables import study_json, study_table
from sweeper.money.account import statement
from sweeper.money.price import Price
from tests.launch.test_tables import STUDY, text
from tests.money.booked import BOOKED_S, PRICE, ledger_of, seen


@pytest.mark.parametrize(
    ("price", "column", "winner", "line"),
    [
        (PRICE, "$", "0.0250", "Cost: $0.104 in 0.029 device hours: 24% winner, 12% other complete trials, 14% dead"),
        (None, "device s", "25.0", "Cost: 0.029 device hours, without a price: 24% winner"),
    ],
)
def test_what_each_trial_cost_in_dollars_or_seconds(
    composed: Callable[..., Config], price: Price | None, column: str, winner: str, line: str
) -> None:
    engine, _ = ledger_of(price, "demo")
    said = text(study_table(seen(), composed("study=demo"), statement(engine, seen(), price)))
    rows = [row.split() for row in said.splitlines()]
    assert next(row for row in said.splitlines() if "evaluations" in row).rstrip().endswith(f" {column}")
    cells = {row[0]: row[-1] for row in rows if row and row[0].isdigit()}
    assert (cells["0"], cells["4"]) == (winner, "–")  # the infeasible one was not trained
    assert line in " ".join(said.split())


def test_json_has_the_sum_and_each_trial(composed: Callable[..., Config]) -> None:
    engine, _ = ledger_of(None, "demo")
    said = study_json(seen(), composed("study=demo"), statement(engine, seen(), None))
    assert (said["cost"]["usd"], said["cost"]["seconds"]) == (None, BOOKED_S)
    assert said["trials"][1]["cost"] == {
        "usd": None,
        "seconds": 12.0,
        "unpriced_s": 12.0,
        "train_s": 10.0,
        "eval_s": 2.0,
        "usd_energy": None,
        "solo_s": 15.0,
        "usd_solo": None,
    }


def test_a_study_of_which_nothing_is_booked_has_no_column_of_costs(composed: Callable[..., Config]) -> None:
    nothing = statement(create_engine("sqlite://"), STUDY, None)
    said = text(study_table(STUDY, composed("study=demo"), nothing))
    assert "$" not in said
    assert "device s" not in said
    assert "Cost" not in said
