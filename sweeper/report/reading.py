"""What a report and the commands that look read of a study."""

from __future__ import annotations

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.money.account import statement
from sweeper.money.price import Price
from sweeper.money.statement import Statement
from sweeper.paths import Home
from sweeper.search.storage import open_storage
from sweeper.search.views import StudyView, view


def studied(home: Home, name: str) -> tuple[StudyView, Config]:
    """A study of the store and its settings.

    Raises:
        StoreError: if there is none of that name.
        ConfigError: if its settings cannot be read.
    """
    return view(home, name), check.load(home.study(name))


def cost_of(home: Home, seen: StudyView, config: Config) -> Statement:
    """What a study has cost so far."""
    return statement(open_storage(home).engine, seen, Price.of(config.gpu))
