"""No password and no token of a study on PostgreSQL is in anything that it leaves behind, or in a process' title."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.pool import NullPool

from tests.conftest import share_formulas
from tests.postgresql import PostgresqlServer, postgresql_server
from tests.test_privacy import PASSWORDS, TOKEN, Person, write_rows

IN_URL = "moss%2Fon-a-c0ld-roof"  # as an address has it
DATABASE_PASSWORD = "moss/on-a-c0ld-roof"
SECRETS = (IN_URL, DATABASE_PASSWORD, TOKEN, *PASSWORDS.values())
USER = "planter"
IS_ALL = os.environ.get("SWEEPER_TESTS") == "all"


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    """A server that asks USER for a password."""
    with postgresql_server() as started:
        execute(started.url, f"CREATE ROLE {USER} LOGIN PASSWORD '{DATABASE_PASSWORD}'")
        execute(started.url, f"GRANT ALL ON SCHEMA public TO {USER}")
        rights = Path(str(scalar(started.url, "SHOW hba_file")))
        rights.write_text(f"host all {USER} 127.0.0.1/32 scram-sha-256\n{rights.read_text()}")
        execute(started.url, "SELECT pg_reload_conf()")
        yield started


def execute(url: str, statement: str) -> None:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(statement))


def scalar(url: str, statement: str) -> object:
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return connection.scalar(sqlalchemy.text(statement))


def everything_in(url: str) -> str:
    """All rows of all tables."""
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        assert {"studies", "trial_user_attributes", "sweeper_sessions"} <= set(tables)
        queries = (sqlalchemy.text(f'SELECT one::text FROM "{table}" AS one') for table in tables)
        return "\n".join(line for query in queries for line in connection.scalars(query))


class Titles:
    """The command lines of all processes, as they are seen meanwhile."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.05):
                for file in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        self.seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                    except OSError:  # it has ended
                        continue

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@pytest.mark.timeout(600)
def test_no_secret_is_left_behind(server: PostgresqlServer, tmp_path: Path, formulas: Path) -> None:
    person, titles = Person(tmp_path), Titles()
    write_rows(person.data)
    person.home.create()
    share_formulas(formulas, person.home.memory)
    plain = server.url.replace("reader@", f"{USER}@")
    given = plain.replace(f"{USER}@", f"{USER}:{IN_URL}@")
    person.environment["SWEEPER_OPTUNA"] = given
    with titles.watched():
        text = person.launch("engine.threads=1", code=2, SWEEPER_CRASH=given)
        assert "a defect stopped the worker: RuntimeError" in text
        person.launch("tracking.report=true")
        looking = [["status", "demo"], *([["doctor", "demo"], ["report", "demo"]] if IS_ALL else [])]  # seconds each
        for command in looking:
            person.run(*command)
        person.environment.pop("SWEEPER_OPTUNA")  # the store knows where its trials are, but not the password
        text = person.run("status", "demo", code=2, PGPASSWORD="wrong-but-as-secret")
        assert f"{plain} must be a PostgreSQL database that can be opened" in text
        assert "password authentication failed" in text
        text = person.run("launch", "study=demo", f"store.optuna={plain}?password={DATABASE_PASSWORD}", code=2)
        assert "store.optuna: must not have a token or a password" in text
    worker = "-m sweeper.worker"
    assert any(worker in title for title in titles.seen)
    in_title = [title for title in titles.seen if any(secret in title for secret in SECRETS)]
    assert [title for title in in_title if "store.optuna=" not in title] == []  # that one, a person has typed
    stored = everything_in(server.url)
    assert "demo" in stored
    for secret in SECRETS:
        assert [*person.where(secret), *person.where(secret, outside=False)] == []
        assert not any(secret in printed for printed in person.printed)
        assert secret not in stored
    assert f'"optuna": "{plain}"' in person.home.kept.read_text()
    assert person.where("postgresql+psycopg://") != []  # the search finds what is there to be found
    assert "401 for [redacted]" in person.home.study("demo").worker_log(0).read_text()
