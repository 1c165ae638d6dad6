"""Past trials that a search may start from, wherever they are; none of these places is ever written to.

An SQLite file is opened read-only, PostgreSQL and MySQL in read-only transactions, a journal file by its reader alone.
Optuna's tables are neither made nor brought to another version: what this Optuna cannot read as it is, is refused.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from sweeper.config.outside import CsvSource, StorageSource, StudySource, source_of
from sweeper.config.schema import Config
from sweeper.config.space import INTEGERS, Parameter, Range, values_of
from sweeper.errors import ConfigError, unknown
from sweeper.paths import Home
from sweeper.redaction import redacted
from sweeper.search.views import TrialView, ranked, view

_WHERE = "search.warm_start"
_HEADER = b"SQLite format 3\x00"
_READ_ONLY = {  # by what SQLAlchemy calls the database
    "postgresql": {"options": "-c default_transaction_read_only=on"},
    "mysql": {"init_command": "SET SESSION TRANSACTION READ ONLY"},
}
_PREFIX = "params_"  # of `study.trials_dataframe()`
_STATES = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")
_NO_PARAMETERS = ("number", "value", "state", "datetime_start", "datetime_complete", "duration")


@dataclass(frozen=True)
class Past:
    """One past trial.

    Attributes:
        name: what it is called where it is, for the person and for the trial that begins with it.
    """

    name: str
    params: dict[str, Any]


def past_trials(home: Home, config: Config) -> tuple[list[Past], list[str]]:
    """The complete and feasible trials of `search.warm_start`, the best first.

    Returns:
        The trials, and what was left out, a line each.

    Raises:
        ConfigError: if what is named is not there, cannot be read, or is no trials.
        StoreError: if there is no such study in the store.
    """
    assert config.search.warm_start is not None
    match source_of(config.search.warm_start):
        case StudySource(study):
            return _named(study, ranked(view(home, study).trials)), []
        case StorageSource(storage, study):
            return _named(study, _of_storage(storage, study)), []
        case CsvSource(file):
            return _of_csv(file, config)


def _named(study: str, trials: list[TrialView]) -> list[Past]:
    return [Past(f"{study}, trial {trial.number}", trial.params) for trial in trials]


def _of_storage(storage: str, study: str) -> list[TrialView]:
    place = redacted(storage)
    try:
        opened = _opened(storage)
        known = {found.study_name: found for found in opened.get_all_studies()}
        if study not in known:
            raise ConfigError(f"{_WHERE}: {unknown('study', study, known)} (storage: {place})")
        directions = known[study].directions
        trials = opened.get_all_trials(known[study]._study_id)
    except ImportError as error:
        raise ConfigError(f"{_WHERE}: the driver of {place} must be installed, but: {error}") from error
    except (SQLAlchemyError, StorageInternalError, OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        # The last four: what a journal or a table says that this Optuna does not know.
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        reason = " ".join(redacted(str(cause)).split()).partition(" (Background on this error")[0]
        raise ConfigError(
            f"{_WHERE}: must be a storage that Optuna {optuna.__version__} can read as it is, since nothing is written "
            f"there, but {place} is not: {reason or type(error).__name__}. Where it can be read, "
            "`study.trials_dataframe().to_csv(FILE)` writes a CSV to name instead"
        ) from error
    if len(directions) != 1:
        raise ConfigError(f"{_WHERE}: must have one objective, but {study!r} in {place} has {len(directions)}")
    if "data_sha256" not in known[study].user_attrs:  # not made here: its attributes mean something else
        for trial in trials:
            trial.user_attrs.clear()
    is_minimized = directions[0] is StudyDirection.MINIMIZE
    return ranked([TrialView.of(trial, is_minimized) for trial in trials])


def _opened(storage: str) -> BaseStorage:
    """A storage, for reading alone."""
    is_sqlite = storage.startswith("sqlite:")
    if is_sqlite or "://" not in storage:
        file = Path(storage.removeprefix("sqlite:///").partition("?")[0] if is_sqlite else storage)
        if not file.is_file():
            raise ConfigError(f"{_WHERE}: must be a file that is there, but there is none at {file}")
        with file.open("rb") as opened:
            header = opened.read(20)
        if header.startswith(_HEADER):
            # One with a write-ahead log that nobody has open would be given an empty log by a reader.
            is_closed = header[18] == 2 and not file.with_name(f"{file.name}-wal").exists()
            immutable = "&immutable=1" if is_closed else ""
            return _rdb(f"sqlite:///{file.absolute().as_uri()}?mode=ro{immutable}&uri=true", {})
        if is_sqlite:
            raise ConfigError(f"{_WHERE}: must be an SQLite database, but {file} is none")
        return JournalStorage(JournalFileBackend(str(file)))
    database = make_url(storage).get_backend_name()
    if database not in _READ_ONLY:
        raise ConfigError(
            f"{_WHERE}: must be sqlite:///FILE, postgresql://…, mysql://… or the path of a journal file, but got "
            f"{database}://…"
        )
    return _rdb(storage, _READ_ONLY[database])


def _rdb(url: str, connect: dict[str, str]) -> BaseStorage:
    return RDBStorage(
        url,
        engine_kwargs={"connect_args": connect, "poolclass": NullPool},  # no connection outlives what it is for
        skip_compatibility_check=True,
        skip_table_creation=True,
    )


def _of_csv(file: Path, config: Config) -> tuple[list[Past], list[str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            names = list(reader.fieldnames or [])
            columns, notes = _columns(file, names, config)
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{_WHERE}: must be a CSV in UTF-8, but {file} cannot be read: {error}") from error
    trials: list[tuple[float, int, Past]] = []
    problems: list[str] = []
    for line, row in lines:
        try:
            value = _value(row, len(names))
            params = {
                name: _param(name, row[column], config.search.space[name])
                for name, column in columns.items()
                if row[column]
            }
        except ValueError as error:
            problems.append(f"{_WHERE}: {file}, line {line}: {error}")
            continue
        if value is not None:
            trials.append((value, line, Past(f"{file.name}, line {line}", params)))
    if problems:
        more = len(problems) - 5
        raise ConfigError(problems[:5] + ([f"{_WHERE}: and {more} more lines of {file}"] if more > 0 else []))
    if not trials:
        raise ConfigError(f"{_WHERE}: must have complete trials, but {file} has none")
    sign = 1 if config.objective.is_minimized else -1
    return [past for _, _, past in sorted(trials, key=lambda trial: (sign * trial[0], trial[1]))], notes


def _columns(file: Path, names: list[str], config: Config) -> tuple[dict[str, str], list[str]]:
    """The column of each parameter of the space, and a note on those that are of none."""
    where, space = f"{_WHERE}: {file}, line 1", config.search.space
    problems = []
    columns: dict[str, str] = {}
    others = []
    for column in names:
        name = column.removeprefix(_PREFIX)
        if name not in space:
            if column and column not in _NO_PARAMETERS and not column.startswith(("user_attrs_", "system_attrs_")):
                others.append(column)
        elif name in columns:
            problems.append(f"{where}: there must be one column for {name}, but there are {columns[name]} and {column}")
        else:
            columns[name] = column
    for column in ("value", "state"):
        if names.count(column) > 1:
            problems.append(f"{where}: there must be one column {column}, but there are {names.count(column)}")
    if "value" not in names:
        problems.append(f"{where}: there must be a column value, what the trial reached, but got {', '.join(names)}")
    if not columns:
        problems.append(
            f"{where}: there must be columns for parameters of search.space ({', '.join(space)}), alone or behind "
            f"{_PREFIX}, but got {', '.join(names)}"
        )
    if problems:
        raise ConfigError(problems)
    return columns, [f"{file.name}'s columns {', '.join(others)} are no parameters of search.space"] if others else []


def _value(row: dict[str | Any, str | Any], width: int) -> float | None:
    """What a trial reached; None where it is not complete.

    Raises:
        ValueError: if the row is no trial.
    """
    if None in row or None in row.values():
        raise ValueError(
            f"must have {width} values, as the first line has, but has {'more' if None in row else 'fewer'}"
        )
    state = (row.get("state") or "COMPLETE").removeprefix("TrialState.")
    if state not in _STATES:
        raise ValueError(f"state: must be one of {', '.join(_STATES)}, but got {state!r}")
    if state != "COMPLETE":
        return None
    value = _number(row["value"])
    if value is None or not math.isfinite(value):
        raise ValueError(f"value: must be a number where a trial is complete, but got {row['value']!r}")
    return value


def _param(name: str, text: str, parameter: Parameter) -> Any:
    """A cell as the parameter has its values: a choice's own value, or a number."""
    number = _number(text)
    if number is not None and name in INTEGERS and number.is_integer():
        number = int(number)  # pandas writes whole numbers as 8.0 where some are missing
    if isinstance(parameter, Range):
        if number is None or not math.isfinite(number):
            raise ValueError(f"{name}: must be a number, but got {text!r}")
        return number
    for value in values_of(parameter) or []:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if (number == value) if is_number else (text.lower() == str(value).lower()):
            return value
    return text if number is None else number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
