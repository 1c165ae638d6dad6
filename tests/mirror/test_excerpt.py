from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sweeper.errors import StoreError
from sweeper.mirror import excerpt
from sweeper.money.ledger import Ledger
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import open_storage, study_names, view
from sweeper.tracking.mlflow_cleaning import MlflowStore
from sweeper.tracking.mlflow_tracker import MlflowTracker


def rows(file: Path, table: str) -> int:
    with closing(sqlite3.connect(file)) as database:
        return int(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def test_a_copy_has_one_study_whole_and_nothing_of_another(demo: StudyPaths, tmp_path: Path) -> None:
    there = Home(tmp_path / "there")
    there.create()
    assert excerpt.take_trials(demo.home.optuna_file, there.optuna_file, "demo")
    assert excerpt.take_runs(demo.home.mlflow_file, there.mlflow_file, "demo")
    assert study_names(demo.home) == ["other", "demo"]  # what is copied from is as it was
    assert study_names(there) == ["demo"]
    assert view(there, "demo") == view(demo.home, "demo")
    assert sorted(MlflowStore(there).experiments) == ["demo"]
    assert MlflowTracker(there, "demo").states() == MlflowTracker(demo.home, "demo").states()
    kept = Ledger(open_storage(there).engine)
    assert (len(kept.sessions("demo")), kept.sessions("other")) == (1, [])
    for file, table, count in (
        (there.optuna_file, "trials", 2),
        (there.optuna_file, "studies", 1),
        (there.optuna_file, "sweeper_leases", 0),  # or its trial would wait for a worker that is no more
        (there.mlflow_file, "experiments", 2),  # with the one that MLflow expects
        (there.mlflow_file, "runs", 2),
        (there.mlflow_file, "metrics", 1),
    ):
        assert rows(file, table) == count
    assert b"other" not in there.optuna_file.read_bytes()
    assert b"secret-ofother" not in there.mlflow_file.read_bytes()


def test_a_database_without_the_study_is_not_taken(demo: StudyPaths, tmp_path: Path) -> None:
    assert not excerpt.take_trials(demo.home.optuna_file, tmp_path / "a", "third")
    assert not excerpt.take_runs(demo.home.mlflow_file, tmp_path / "b", "third")
    assert not excerpt.take_runs(demo.home.optuna_file, tmp_path / "c", "demo")


def test_a_copy_is_of_one_moment_while_another_process_writes(demo: StudyPaths, tmp_path: Path) -> None:
    with closing(sqlite3.connect(demo.home.optuna_file)) as writer:
        writer.execute("UPDATE studies SET study_name = 'half' WHERE study_name = 'demo'")  # and has not committed
        assert excerpt.take_trials(demo.home.optuna_file, tmp_path / "a", "demo")
        writer.rollback()


def test_a_damaged_database_is_not_taken(demo: StudyPaths, tmp_path: Path) -> None:
    content = bytearray(demo.home.optuna_file.read_bytes())
    content[8192:40960] = b"\xff" * (40960 - 8192)
    demo.home.optuna_file.write_bytes(content)
    with pytest.raises(StoreError, match=r"optuna\.db must be a (whole )?database"):
        excerpt.take_trials(demo.home.optuna_file, tmp_path / "a", "demo")
