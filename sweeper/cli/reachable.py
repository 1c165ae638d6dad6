"""What `sweeper doctor` asks of all that a store or a study names: is it there, and can it be written?"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Column, Engine, Integer, MetaData, Table, insert, select
from sqlalchemy.exc import SQLAlchemyError

from sweeper.cli.finding import Finding, State
from sweeper.config import check, compose
from sweeper.config.outside import uri_problems, without_credentials
from sweeper.config.schema import Config
from sweeper.database import CREDENTIALS, database_problems, has_password
from sweeper.errors import ConfigError, SweeperError
from sweeper.paths import Home
from sweeper.redaction import redacted
from sweeper.search.storage import open_storage
from sweeper.tracking.place import VARIABLE, Place

SCRATCH = "sweeper_doctor_"  # a table of this name and a number, which is dropped at once


@dataclass(frozen=True)
class Named:
    """What is to be reached.

    Attributes:
        home: with the database that was asked for, if any.
        config: the settings of a study, or of one that is to be launched; None: the store alone.
    """

    home: Home
    config: Config | None

    @classmethod
    def of(cls, home: Home, study: str | None, optuna: str | None, overrides: Sequence[str] = ()) -> Named:
        """What a study of the store names, or a launch, or the store itself.

        Args:
            optuna: a database in place of the store's.
            overrides: of a launch, in place of `study`; without `study=` of the demo.

        Raises:
            ConfigError: if it is no database's address, or the overrides are none.
            StoreError: if there is no such study.
        """
        if optuna is not None:
            problems = database_problems("--optuna", optuna)
            if not problems and has_password(optuna):
                problems = [f"--optuna: must have no password in it, which everybody could read; set {CREDENTIALS}"]
            if problems:
                raise ConfigError(problems)
            home = Home(home.root, optuna)
        if overrides:
            given = [] if any(one.startswith("study=") for one in overrides) else ["study=demo"]
            config = check.check(compose.values_of([*given, *overrides]))
            return cls(Home.named(config.store.home, optuna or config.store.optuna), config)
        return cls(home, check.load(home.study(study)) if study is not None else None)


def _mirror(named: Named) -> Finding | None:
    """Writes, reads and deletes a file in the study's mirror, where it has one."""
    if named.config is None or (url := named.config.store.mirror) is None:
        return None
    from sweeper.mirror.remote import check as problem_of

    problem = problem_of(url)
    return Finding("mirror", State.of(problem is None), redacted(problem or f"{url} can be written"))


def _storage(named: Named) -> Finding:
    """Opens the storage, and makes, writes, reads and drops a table there."""
    home = named.home
    if not home.has_optuna:
        return Finding("storage", State.OK, f"SQLite, in {home.optuna_file}, which the first study makes")
    try:
        storage = open_storage(home)
        _write(storage.engine)
        count = len(storage.get_all_studies())
        version = storage.engine.dialect.name
    except SweeperError as error:
        cure = f"set {CREDENTIALS}" if "authentication" in str(error) or "password" in str(error) else None
        return Finding("storage", State.MISSING, redacted(str(error)), cure)
    except SQLAlchemyError as error:
        reason = redacted(" ".join(str(getattr(error, "orig", error)).split()))
        cure = "its user must be able to make tables: GRANT CREATE, USAGE ON SCHEMA public TO USER"
        return Finding("storage", State.MISSING, f"{home.optuna_place} cannot be written: {reason}", cure)
    return Finding("storage", State.OK, f"{version}, {home.optuna_place}, can be written; {count} studies")


def _write(engine: Engine) -> None:
    table = Table(f"{SCRATCH}{uuid.uuid4().hex}", MetaData(), Column("value", Integer, nullable=False))
    with engine.connect() as connection, connection.begin() as transaction:
        table.create(connection)
        connection.execute(insert(table).values(value=1))
        assert connection.scalar(select(table.c.value)) == 1
        transaction.rollback()  # takes the table with it


def _tracking(named: Named) -> Finding:
    """Writes, reads and deletes a run on the tracking server, where there is one."""
    try:
        if named.config is not None:
            place = Place.of(named.config)
        else:
            given = os.environ.get(VARIABLE)
            if given and (problems := uri_problems(VARIABLE, given)):
                raise ConfigError(problems)
            place = Place(without_credentials(given) if given else None, "sweeper doctor")
        if place.uri is None:
            return _own_runs(named.home)
        from sweeper.tracking.mlflow_probe import probe

        _, notes = probe(place, uuid.uuid4().hex)
    except SweeperError as error:
        return Finding("tracking", State.MISSING, redacted(str(error)))
    return Finding("tracking", State.OK, redacted(f"{place} can be written; {notes[-1]}" if notes[1:] else str(place)))


def _own_runs(home: Home) -> Finding:
    """The store's own MLflow database."""
    from sweeper.tracking.mlflow_database import refuse_other_tables

    refuse_other_tables(home)
    file: Path = home.mlflow_file
    if not file.is_file():
        return Finding("tracking", State.OK, f"MLflow's own store, in {file}, which the first study makes")
    if not os.access(file, os.W_OK):
        return Finding(
            "tracking", State.MISSING, f"{file} cannot be written", f"give yourself the right: chmod u+w {file}"
        )
    return Finding("tracking", State.OK, f"MLflow's own store, in {file}")


CHECKS: dict[str, Callable[[Named], Finding | None]] = {"storage": _storage, "tracking": _tracking, "mirror": _mirror}
