"""A study that an earlier version finished: today's code reads it whole, and goes on with it."""

from __future__ import annotations

import json
import re
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from sweeper.config import check
from sweeper.config.reproduce import launch_of
from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.search.leases import Leases
from sweeper.search.tables import VERSION
from sweeper.tracking.mlflow_tracker import MlflowTracker
from tests.compat.freeze import COMMANDS, PLACE, STUDY
from tests.conftest import share_formulas
from tests.launch.test_launch import json_of, sweeper

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.gz"))
ONLY_NOW = {"store", "size_bytes", "changed"}  # of the place and the files, not of the study


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The archive, opened where its study finds its data again."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    for file in (tmp_path / "store").rglob("*.yaml"):
        file.write_text(file.read_text(encoding="utf-8").replace(PLACE, str(tmp_path)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def home(frozen: Path) -> Home:
    return Home(frozen / "store")


def without(value: Any, names: set[str]) -> Any:
    """The same without some keys, however deep."""
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value


def old_forms(home: Home) -> Iterator[str]:
    """Columns that only older tables have."""
    with closing(sqlite3.connect(home.optuna_file)) as database:
        for table, column in (("sweeper_leases", "expires_s"), ("sweeper_sessions", "seen_s")):
            if column in [row[1] for row in database.execute(f"PRAGMA table_info({table})")]:
                yield column


def test_there_is_one() -> None:
    assert [path.name for path in ARCHIVES] == ["v1.tar.gz"]


def test_commands_say_of_it_what_they_said_then(frozen: Path, home: Home) -> None:
    expected = json.loads((frozen / "expected.json").read_text(encoding="utf-8"))
    before = list(old_forms(home))
    for command in COMMANDS:
        found, then = (without(one, ONLY_NOW) for one in (json_of(home, *command), expected[command[0]]))
        for key, value in then.items():  # what is said beside that is new
            assert found[key] == value, command
    assert sweeper(home, "report", STUDY).returncode == 0
    assert STUDY in home.study(STUDY).report_text.read_text(encoding="utf-8")
    assert list(old_forms(home)) == before  # looking changes nothing


def test_it_goes_on_and_is_exported(frozen: Path, home: Home, formulas: Path, tmp_path: Path) -> None:
    then = json.loads((frozen / "expected.json").read_text(encoding="utf-8"))["status"]
    share_formulas(formulas, home.memory)
    arguments = arguments_of(home)
    done = sweeper(home, "launch", *arguments, "search.trials=6")
    assert done.returncode == 0, done.stdout + done.stderr
    now = json_of(home, "status", STUDY)
    assert now["counts"] == {"COMPLETE": 6}
    assert [trial["value"] for trial in now["trials"][:5]] == [trial["value"] for trial in then["trials"]]
    assert list(old_forms(home)) == []
    with closing(sqlite3.connect(home.optuna_file)) as database:
        assert database.execute("SELECT version FROM sweeper_schema").fetchall() == [(VERSION,)]
    done = sweeper(home, "export", STUDY, "--to", str(tmp_path / "out"), "--force")
    assert done.returncode == 0, done.stderr


def arguments_of(home: Home) -> list[str]:
    """What the study was launched with, as whoever goes on with it says it."""
    return list(launch_of(check.load(home.study(STUDY))).arguments)


def alter(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as opened:
        opened.execute(statement)
        opened.commit()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (
            "v3.0.0.d",
            r"of the form of the installed Optuna .*older one, v3.0.0.d.*optuna storage upgrade",
        ),
        ("v99", r"which a newer one has made. Nothing was changed: pip install -U optuna"),
    ],
)
def test_tables_of_another_optuna_are_refused(home: Home, version: str, expected: str) -> None:
    alter(home.optuna_file, f"UPDATE alembic_version SET version_num = '{version}'")
    before = home.optuna_file.read_bytes()
    for command in (["status", STUDY], ["launch", f"study.name={STUDY}", "study=demo"]):
        done = sweeper(home, *command)
        assert done.returncode == 2, done.stdout
        assert "Traceback" not in done.stderr
        assert re.search(expected, " ".join(done.stderr.split())), done.stderr
    assert home.optuna_file.read_bytes() == before


def test_tables_of_another_mlflow_are_refused(home: Home) -> None:
    alter(home.mlflow_file, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    before = home.mlflow_file.read_bytes()
    with pytest.raises(
        StoreError, match=r"must be of the form of the installed MLflow .*: mlflow db upgrade sqlite:///"
    ):
        MlflowTracker(home, STUDY)
    assert home.mlflow_file.read_bytes() == before


def test_tables_of_a_newer_sweeper_are_refused(home: Home) -> None:
    engine = sqlalchemy.create_engine(home.optuna_url)
    Leases(engine, 60.0)  # brings them to today's form
    engine.dispose()
    alter(home.optuna_file, f"UPDATE sweeper_schema SET version = {VERSION + 1}")
    done = sweeper(home, "status", STUDY)
    assert done.returncode == 2
    assert f"sweeper's tables in a store must be of version {VERSION} or older, but" in done.stderr


def test_a_migration_that_is_interrupted_is_completed(home: Home) -> None:
    alter(home.optuna_file, "ALTER TABLE sweeper_leases DROP COLUMN expires_s")  # and then it was killed
    engine = sqlalchemy.create_engine(home.optuna_url)
    assert Leases(engine, 60.0).acquire(1)
    engine.dispose()
    assert list(old_forms(home)) == []
