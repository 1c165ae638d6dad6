"""What a report and the commands that look read of a study."""

from __future__ import annotations

from sqlalchemy import create_engine

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.money.account import statement
from sweeper.money.price import Price
from sweeper.money.statement import Statement
from sweeper.paths import Home
from sweeper.search.storage import open_storage
from sweeper.search.views import StudyView, study_names, view


def studied(home: Home, name: str) -> tuple[StudyView, Config]:
    """A study of the store and its settings; without trials while it has asked for none yet.

    Raises:
        StoreError: if there is none of that name.
        ConfigError: if its settings cannot be read.
    """
    is_known = home.has_optuna and name in study_names(home)
    if not is_known and home.study(name).config.is_file():  # it has just begun
        return StudyView(name, [], {}), check.load(home.study(name))
    return view(home, name), check.load(home.study(name))


def cost_of(home: Home, seen: StudyView, config: Config) -> Statement:
    """What a study has cost so far."""
    engine = open_storage(home).engine if home.has_optuna else create_engine("sqlite://")  # nothing is booked yet
    return statement(engine, seen, Price.of(config.gpu))
