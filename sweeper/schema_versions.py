"""The forms of the tables of Optuna and MLflow: a database of another form than the library's is refused.

The libraries would make what an older one lacks before they look at its form, and leave it half of each.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import StoreError

if TYPE_CHECKING:
    from sqlalchemy import Engine

_TABLE = "alembic_version"


def refuse_other(engine: Engine, library: str, version: str, migrations: Path, upgrade: str, place: str) -> None:
    """Raises StoreError where a database has tables of another form; one without tables has none.

    Args:
        library: whose tables they are, as it is installed.
        version: of the library.
        migrations: its folder of steps from each form to the next, as Alembic has them.
        upgrade: the command that takes these steps.
        place: the database, without a password.
    """
    from alembic.script import ScriptDirectory
    from sqlalchemy import inspect, text

    if not inspect(engine).has_table(_TABLE):
        return
    with engine.connect() as connection:
        found = connection.scalar(text(f"SELECT version_num FROM {_TABLE}"))
    known = [one.revision for one in ScriptDirectory(str(migrations)).walk_revisions()]  # the newest first
    if found is None or found == known[0]:
        return
    if found in known:
        raise StoreError(
            f"the tables of {library} must be of the form of the installed {library} {version}, {known[0]}, but those "
            f"in {place} are of an older one, {found}. Nothing was changed. Copy the database, then: {upgrade}"
        )
    raise StoreError(
        f"the tables of {library} must be of a form that the installed {library} {version} knows, {known[0]} at the "
        f"most, but those in {place} are of {found}, which a newer one has made. Nothing was changed: "
        f"pip install -U {shlex.quote(library.lower())}"
    )
