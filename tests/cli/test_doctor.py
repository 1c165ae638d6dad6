"""What `sweeper doctor` says of a database and a tracking server, and how; of the machine itself, `checks/` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy
from click.testing import CliRunner
from sqlalchemy.pool import NullPool

from sweeper.cli.doctor import examine
from sweeper.cli.finding import Finding, State, show
from sweeper.cli.main import main
from sweeper.cli.reachable import CHECKS, Named
from sweeper.errors import ConfigError
from sweeper.paths import Home
from tests.postgresql import PostgresqlServer, postgresql_server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with postgresql_server() as started:
        yield started


def found(home: Home, optuna: str | None = None) -> dict[str, Finding]:
    return {one.what: one for ask in CHECKS.values() if (one := ask(Named.of(home, None, optuna))) is not None}


def run(url: str, statement: str) -> list[str]:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        done = connection.execute(sqlalchemy.text(statement))
        return list(done.scalars()) if done.returns_rows else []


def test_an_empty_store_needs_nothing(home: Home) -> None:
    storage, tracking = found(home).values()
    assert (storage.is_ok, tracking.is_ok) == (True, True)
    assert storage.detail == f"SQLite, in {home.optuna_file}, which the first study makes"
    assert not home.optuna_file.exists()


def test_a_database_that_can_be_used_is_left_as_it_is(home: Home, server: PostgresqlServer) -> None:
    storage = found(home, server.url)["storage"]
    assert storage == Finding("storage", State.OK, f"postgresql, {server.url}, can be written; 0 studies")
    tables = run(server.url, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'sweeper%'")
    assert tables == []
    assert not home.kept.exists()


def test_what_is_wrong_with_a_database_is_said(home: Home, server: PostgresqlServer) -> None:
    run(server.url, "CREATE ROLE looker LOGIN")
    storage = found(home, server.url)["storage"]  # which makes Optuna's tables
    assert storage.is_ok
    run(server.url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker")
    storage = found(home, server.url.replace("reader@", "looker@"))["storage"]
    assert not storage.is_ok
    assert "cannot be written: permission denied for schema public" in storage.detail
    assert storage.cure is not None
    assert "GRANT CREATE" in storage.cure
    away = found(home, "postgresql://reader@127.0.0.1:1/studies")["storage"]
    assert not away.is_ok
    assert "the storage of the studies must answer, but postgresql+psycopg://reader@127.0.0.1:1/studies" in away.detail


def test_a_tracking_server_that_is_away_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:moss-on-a-roof@127.0.0.1:1")
    tracking = found(home)["tracking"]
    assert not tracking.is_ok
    assert "127.0.0.1:1" in tracking.detail
    assert "moss-on-a-roof" not in tracking.detail


def test_a_password_is_refused_where_everybody_can_read_it(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"--optuna: must have no password in it, .*PGPASSWORD or ~/.pgpass"):
        Named.of(home, None, "postgresql://ann:secret@db/studies")
    result = CliRunner().invoke(main, ["doctor", "--optuna", "mysql://ann@db/studies"])
    assert result.exit_code == 2
    assert "--optuna: must be a PostgreSQL database's address" in result.stderr
    assert CliRunner().invoke(main, ["doctor", "nothing"]).exit_code == 2


def test_a_check_that_breaks_is_said_and_the_others_are_made(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> None:
        raise ZeroDivisionError("of\nits own")

    monkeypatch.setattr("sweeper.cli.checks.gpu.gpu", breaks)
    monkeypatch.setattr("sweeper.cli.checks.libraries.quantised_training", breaks)
    found = {one.what: one for one in examine(Named.of(home, None, None))}
    assert found["gpu"].state is State.WARNING
    assert found["gpu"].detail == "could not be looked at: the check itself failed with ZeroDivisionError: of"
    assert found["4-bit training"].state is State.MISSING  # nothing works without it
    assert found["tracking"].state is State.OK


def test_only_what_is_missing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding("a", State.OK, "is fine"),
        Finding("b", State.NOTE, "differs"),
        Finding("c", State.WARNING, "x"),
    ]
    assert show(findings, as_json=False) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["ok   a: is fine", "note b: differs", "WARN c: x", "sweeper can work here, within limits: c"]
    findings.append(Finding("d", State.MISSING, "is not there", "get it"))
    assert show(findings, as_json=False) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[-3:] == ["FAIL d: is not there", "     get it", "sweeper cannot work with this: d"]
    assert show(findings, as_json=True) == 1
    listed = json.loads(capsys.readouterr().out)
    assert [(one["state"], one["is_ok"]) for one in listed] == [
        ("ok", True),
        ("note", True),
        ("warning", True),
        ("missing", False),
    ]
    assert listed[-1]["cure"] == "get it"


def test_where_a_package_is_missing_that_the_checks_themselves_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sweeper.cli.doctor", None)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "ok   libraries: torch" in result.output
    assert "FAIL the rest: cannot be looked at: " in result.output


def test_settings_of_a_launch_are_looked_at_in_place_of_a_study(home: Home) -> None:
    result = CliRunner().invoke(main, ["doctor", "--json", "model=hub", "model.path=acme/not-cached"])
    found = {one["what"]: one for one in json.loads(result.output)}
    assert result.exit_code == 1
    assert "HF_HUB_OFFLINE is set" in found["base hub"]["detail"]
    assert found["hub"]["state"] == "note"
    assert CliRunner().invoke(main, ["doctor", "demo", "model=tiny"]).exit_code == 2
