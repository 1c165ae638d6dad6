"""MLflow's own database in the store: whether the installed MLflow can use it as it is."""

from __future__ import annotations

from pathlib import Path

import mlflow.store
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from sweeper.paths import Home
from sweeper.schema_versions import refuse_other

_MIGRATIONS = Path(mlflow.store.__file__).parent / "db_migrations"


def refuse_other_tables(home: Home) -> None:
    """Raises StoreError where the store's runs are in tables of another form than the installed MLflow's."""
    if not home.mlflow_file.is_file():
        return
    engine = create_engine(home.mlflow_url, poolclass=NullPool)
    upgrade = f"mlflow db upgrade {home.mlflow_url}"
    refuse_other(engine, "MLflow", mlflow.__version__, _MIGRATIONS, upgrade, str(home.mlflow_file))
