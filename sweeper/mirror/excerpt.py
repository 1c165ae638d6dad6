"""A copy of a database of the store, with one study in it alone.

SQLite's own backup copies it, since a file copy of a database that is written may be of two moments. What belongs to
other studies is deleted from the copy: a mirror is one study's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sweeper.errors import StoreError

Statements = Iterator[tuple[str, tuple[object, ...]]]
Tables = Mapping[str, set[str]]
_LOCK_WAIT_S = 60
_DEFAULT_EXPERIMENT = 0  # which MLflow expects to be there


def take_trials(source: Path, to: Path, study: str) -> bool:
    """Copies Optuna's database, with the bookings and without the leases.

    Returns:
        False where the study is not in it.

    Raises:
        StoreError: if the database is damaged, or cannot be copied.
    """
    return _take(source, to, "studies", "SELECT study_id FROM studies WHERE study_name = ?", study, _of_other_studies)


def take_runs(source: Path, to: Path, study: str) -> bool:
    """Copies MLflow's database, likewise."""
    query = "SELECT experiment_id FROM experiments WHERE name = ?"
    return _take(source, to, "experiments", query, study, _of_other_experiments)


def _take(
    source: Path, to: Path, table: str, query: str, study: str, others: Callable[[Tables, int, str], Statements]
) -> bool:
    try:
        with closing(_opened(source)) as database, closing(sqlite3.connect(to)) as copy:
            database.backup(copy)
            [state] = copy.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise StoreError(f"{source} must be a whole database to be mirrored, but SQLite finds: {state}")
            tables = {name: _columns(copy, name) for name in _tables(copy)}
            found = copy.execute(query, (study,)).fetchone() if table in tables else None
            if found is None:
                return False
            copy.execute("PRAGMA secure_delete = ON")
            _empty(copy, tables)
            before = copy.total_changes
            for statement, values in others(tables, found[0], study):
                copy.execute(statement, values)
            copy.commit()
            if copy.total_changes != before:
                copy.execute("VACUUM")  # or it would be as large as with them
            return True
    except sqlite3.Error as error:
        raise StoreError(f"{source} must be a database that can be copied to be mirrored, but: {error}") from error


def _opened(source: Path) -> sqlite3.Connection:
    """The database as it is; to be written where a killed writer left it in the middle of something."""
    return sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=_LOCK_WAIT_S)


def _tables(database: sqlite3.Connection) -> list[str]:
    return [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f'PRAGMA table_info("{table}")')}


def _empty(copy: sqlite3.Connection, tables: Tables) -> None:
    """Deletes what is of no use elsewhere: leases, of workers that do not run there, and MLflow's secrets."""
    for table in ("sweeper_leases", "trial_heartbeats", "secrets", "webhooks"):
        if table in tables:
            copy.execute(f"DELETE FROM {table}")


def _of_other_studies(tables: Tables, study_id: int, study: str) -> Statements:
    """Whatever names a study or a trial by its id, in Optuna's tables and in those that sweeper keeps beside them."""
    for table, columns in tables.items():
        if "trial_id" in columns and table != "trials":
            its = "SELECT trial_id FROM trials WHERE study_id = ?"
            yield f"DELETE FROM {table} WHERE trial_id NOT IN ({its})", (study_id,)
        elif "study_id" in columns:
            yield f"DELETE FROM {table} WHERE study_id != ?", (study_id,)
        elif "study" in columns:
            yield f"DELETE FROM {table} WHERE study != ?", (study,)
    if "sweeper_bookings" in tables:
        yield "DELETE FROM sweeper_bookings WHERE session NOT IN (SELECT id FROM sweeper_sessions)", ()


def _of_other_experiments(tables: Tables, experiment_id: int, study: str) -> Statements:
    """Whatever names an experiment or a run by its id."""
    kept = (experiment_id, _DEFAULT_EXPERIMENT)
    runs = "SELECT run_uuid FROM runs WHERE experiment_id IN (?, ?)"
    for table, columns in tables.items():
        if "run_uuid" in columns and table != "runs":
            yield f"DELETE FROM {table} WHERE run_uuid NOT IN ({runs})", kept
        elif "experiment_id" in columns:
            yield f"DELETE FROM {table} WHERE experiment_id NOT IN (?, ?)", kept
    yield f"DELETE FROM inputs WHERE destination_id NOT IN ({runs})", kept
    yield "DELETE FROM input_tags WHERE input_uuid NOT IN (SELECT input_uuid FROM inputs)", ()
