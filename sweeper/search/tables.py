"""The tables that sweeper keeps beside Optuna's, and the version of their form.

A store of an older form is brought to today's before anything of it is used, in steps that each leave it readable by
the same code; one of a newer form is refused, for reading too.
"""

from __future__ import annotations

from sqlalchemy import Column, Engine, Integer, MetaData, Table, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sweeper.errors import StoreError
from sweeper.search.patience import in_transaction, patient

# 1, which is not written down: leases and sessions have a time of the database's clock. 2: they have none.
VERSION = 2
_SCHEMA = Table(
    "sweeper_schema",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row
    Column("version", Integer, nullable=False),
)
_GONE = {"sweeper_leases": "expires_s", "sweeper_sessions": "seen_s"}  # columns of version 1


def refuse_newer(engine: Engine) -> None:
    """Raises StoreError where the tables in a database are of a newer form than today's; older ones can be read."""
    _version(engine)


def _version(engine: Engine) -> int | None:
    """None where there are no tables, or their making was interrupted."""
    tables = inspect(engine)
    if not tables.has_table(_SCHEMA.name):
        return 1 if any(tables.has_table(name) for name in _GONE) else None
    with engine.connect() as connection:
        found: int | None = connection.scalar(select(_SCHEMA.c.version))
    if found is not None and found > VERSION:
        raise StoreError(
            f"sweeper's tables in a store must be of version {VERSION} or older, but those in "
            f"{engine.url.render_as_string()} are of version {found}, which a newer sweeper has made: "
            "pip install -U sweeper"
        )
    return found


def make(engine: Engine, *tables: Table) -> None:
    """Makes tables that are not there yet, and brings those of an older store to today's form.

    Raises:
        StoreError: if they are of a newer one.
    """
    patient(engine, lambda: _make(engine, *tables))


def _make(engine: Engine, *tables: Table) -> None:
    version = _version(engine)
    for table in (_SCHEMA, *tables):
        _attempt(engine, table)
    if version != VERSION:
        for name, column in _GONE.items():
            _drop(engine, name, column)
        _write_version(engine)


def _attempt(engine: Engine, table: Table) -> None:
    try:
        table.create(engine, checkfirst=True)
    except SQLAlchemyError:
        if not inspect(engine).has_table(table.name):  # else another worker was faster
            raise


def _has(engine: Engine, table: str, column: str) -> bool:
    tables = inspect(engine)
    return tables.has_table(table) and any(one["name"] == column for one in tables.get_columns(table))


def _drop(engine: Engine, table: str, column: str) -> None:
    if not _has(engine, table, column):
        return
    try:
        in_transaction(engine, lambda connection: connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}")))
    except SQLAlchemyError:
        if _has(engine, table, column):  # else another worker was faster
            raise


def _write_version(engine: Engine) -> None:
    """Last: until then the same steps are taken again."""
    try:
        with engine.begin() as connection:
            if not connection.execute(update(_SCHEMA).values(version=VERSION)).rowcount:
                connection.execute(insert(_SCHEMA).values(id=1, version=VERSION))
    except IntegrityError:  # another worker was faster
        pass
