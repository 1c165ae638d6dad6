"""Studies to report on: real stores with made-up scores, and facts that are made up whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sweeper.money.account import statement
from sweeper.money.price import Price
from sweeper.paths import Home
from sweeper.report.facts import Facts
from sweeper.search.views import StudyView, TrialView
from tests.housekeeping.conftest import make as make
from tests.launch.test_tables import ATTRIBUTES, STUDY
from tests.money.booked import PRICE, ledger_of

MakeFacts = Callable[..., Facts]


@pytest.fixture
def facts(home: Home, composed_once: Any) -> MakeFacts:
    """Of a study with trials of every kind, 30 seconds and three cents of which are booked."""

    def made(
        *overrides: str,
        trials: Sequence[TrialView] = STUDY.trials,
        price: Price | None = PRICE,
        is_running: bool = False,
        **attributes: Any,
    ) -> Facts:
        config = composed_once("study=demo", *overrides)
        seen = replace(STUDY, trials=list(trials), attributes={**ATTRIBUTES, **attributes})
        engine, _ = ledger_of(price, "demo")
        paths = home.study("demo")
        paths.create()
        return Facts(paths, seen, config, statement(engine, seen, price), is_running)

    return made


def nothing_of(facts: Facts) -> Facts:
    """The same study before it has begun."""
    return replace(facts, seen=StudyView(facts.name, [], {}))
