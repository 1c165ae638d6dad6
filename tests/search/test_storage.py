from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy
from sqlalchemy.pool import NullPool

from sweeper.config.schema import Config
from sweeper.errors import ConfigError, StoreError
from sweeper.launching.launcher import launch
from sweeper.money.booking import Activity, Booking, Whose
from sweeper.money.ledger import Ledger
from sweeper.money.meter import Meter
from sweeper.paths import Home
from sweeper.search.patience import Patience, is_away
from sweeper.search.storage import keep_storage, open_storage
from sweeper.search.study import Search
from sweeper.search.views import begun, study_names, view
from sweeper.trial import Reason, RunKind
from tests.postgresql import PostgresqlServer, postgresql_server
from tests.proxy import Proxy
from tests.search.conftest import RECORD, ask, complete, curve

Compose = Callable[..., Config]


@dataclass
class Behind:
    """A store whose database is behind a proxy."""

    home: Home
    proxy: Proxy
    said: list[str] = field(default_factory=list)
    engines: list[sqlalchemy.Engine] = field(default_factory=list)

    def search(self, config: Config, patience: Patience | None = None) -> Search:
        """A worker's search, which waits for the database."""
        made = Search(self.home, config, patience=patience or self.patience())
        self.engines.append(made.engine)
        return made

    def ledger(self) -> Ledger:
        self.engines.append(open_storage(self.home, self.patience()).engine)
        return Ledger(self.engines[-1])

    def patience(self, patience_s: float = 60.0, is_stopping: Callable[[], bool] = lambda: False) -> Patience:
        return Patience(self.home.optuna_place, patience_s, self.said.append, is_stopping)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with postgresql_server() as started:
        yield started


@pytest.fixture
def database(server: PostgresqlServer) -> str:
    """An empty database of the server."""
    name = f"d{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    return server.url.replace("/postgres", f"/{name}")


@pytest.fixture
def behind(home: Home, database: str) -> Iterator[Behind]:
    port = sqlalchemy.make_url(database).port
    assert port is not None
    with Proxy(port) as proxy:
        made = Behind(Home(home.root, database.replace(f":{port}/", f":{proxy.port}/")), proxy)
        yield made
        for engine in made.engines:
            engine.dispose()


@pytest.mark.parametrize("request_of", ["COMMIT", "UPDATE", "INSERT", "SELECT"])
def test_an_answer_that_is_lost_changes_nothing(composed: Compose, behind: Behind, request_of: str) -> None:
    """Whatever step it is lost at, the study is as if it had not been."""
    config = composed("study=demo", "search.trials=3", "search.enqueue=[{rank: 4}]")
    search = behind.search(config)
    lose = lambda: behind.proxy.lose_answer(request_of.encode())  # noqa: E731
    lose()
    search.enqueue_starts()
    for number in range(3):
        lose()
        asked = ask(search)
        assert asked.number == number
        lose()
        search.report(number, curve(0.4), may_prune=True)
        lose()
        if number == 1:
            assert search.requeue(number, has_crashed=True)
            lose()
            assert ask(search).number == 1
        lose()
        if number == 2:
            search.prune(number, Reason.DIVERGED, RECORD, {})
        else:
            search.complete(number, 0.5, {**RECORD, "curve": curve(0.4)}, {})
    assert search.ask() is None
    behind.proxy.lose_answer(b"nothing says this")
    seen = view(behind.home, "demo")
    assert [trial.state for trial in seen.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert [trial.start is not None for trial in seen.trials] == [True, False, False]
    assert behind.proxy.losses >= 5
    assert len(behind.said) % 2 == 0  # away and back


def test_a_database_that_is_away_is_waited_for_and_announced_once(composed: Compose, behind: Behind) -> None:
    search = behind.search(composed("study=demo", "search.trials=2"))
    asked = ask(search)
    behind.proxy.refuse()
    threading.Timer(1.5, behind.proxy.accept).start()
    begun_s = time.monotonic()
    complete(search, asked.number, 0.5)
    assert time.monotonic() - begun_s > 1.4
    away, back = behind.said
    assert away.startswith(
        "the storage of the studies is away, and is tried again for store.patience_s=60 s: postgresql"
    )
    assert back.startswith("the storage of the studies is back after ")
    assert view(behind.home, "demo").counts() == {"COMPLETE": 1}


def test_a_frozen_connection_goes_on(composed: Compose, behind: Behind) -> None:
    search = behind.search(composed("study=demo", "search.trials=2"))
    asked = ask(search)
    behind.proxy.freeze()
    threading.Timer(0.7, behind.proxy.thaw).start()
    complete(search, asked.number, 0.5)
    assert view(behind.home, "demo").counts() == {"COMPLETE": 1}
    assert behind.said == []


def test_patience_has_an_end_and_a_stop_ends_it(composed: Compose, behind: Behind) -> None:
    stopping = threading.Event()
    search = behind.search(composed("study=demo", "search.trials=2"), behind.patience(1.0, stopping.is_set))
    behind.proxy.refuse()
    with pytest.raises(StoreError, match=r"has not for store.patience_s=1 s: .*refused.* Once it is back, the same"):
        search.ask()
    begun_s = time.monotonic()
    with pytest.raises(StoreError):  # it is not waited for again
        search.ask()
    assert time.monotonic() - begun_s < 0.5
    behind.proxy.accept()
    asked = ask(search)
    behind.proxy.refuse()
    stopping.set()
    with pytest.raises(StoreError, match="when a stop was asked for"):
        search.complete(asked.number, 0.5, RECORD, {})


def test_what_no_waiting_cures_is_said_at_once(home: Home, database: str) -> None:
    begun_s = time.monotonic()
    name = database.rpartition("/")[2]
    for url in (database.replace("reader@", "nobody_here@"), database.replace(name, "no_such_database")):
        with pytest.raises(StoreError, match=r'must be a PostgreSQL database that can be opened, .*" does not exist'):
            open_storage(Home(home.root, url), Patience("it", 60.0))
    assert time.monotonic() - begun_s < 20
    assert not is_away(ValueError("no"))


@pytest.mark.parametrize("request_of", ["COMMIT", "UPDATE sweeper_sessions", "INSERT INTO sweeper_bookings", "SELECT"])
def test_nothing_is_booked_twice_where_answers_are_lost(behind: Behind, request_of: str) -> None:
    ledger = behind.ledger()
    clock = [7_000_000]
    behind.proxy.lose_answer(b"COMMIT")
    meter = Meter(ledger, "s", "d", None, 1e9 - 2.0, clock_us=lambda: clock[0], wall_s=lambda: 1e9)
    for _ in range(3):
        clock[0] += 1_000_000
        meter.book(Activity.TRAIN, {Whose(RunKind.TRIAL, 1): 10})
        behind.proxy.lose_answer(request_of.encode())
        meter.flush()
    behind.proxy.lose_answer(request_of.encode())
    meter.close()
    [session] = ledger.sessions("s")
    assert (session.booked_us, session.is_ended) == (5_000_000, True)
    booked = {(one.whose, one.activity): (one.us, one.units) for one in ledger.bookings("s")}
    train = Whose(RunKind.TRIAL, 1), Activity.TRAIN
    assert booked[train] == (5_000_000, 30)
    assert sum(us for us, _ in booked.values()) == 5_000_000
    assert behind.proxy.losses >= 2


def test_a_write_that_arrives_late_is_seen(behind: Behind) -> None:
    """A COMMIT that waits in a connection that its client has given up, while the same is written again."""
    late, now = behind.ledger(), behind.ledger()
    clock = [0]
    meter = Meter(now, "s", "d", None, 1e9, clock_us=lambda: clock[0], wall_s=lambda: 1e9)
    clock[0] = 1_000_000
    meter.book(Activity.TRAIN, {Whose(RunKind.TRIAL, 1): 10})

    connection = late.engine.connect()
    transaction = connection.begin()
    bookings = [Booking(meter.session, whose, activity, *sizes) for (whose, activity), sizes in meter._pending.items()]
    assert late._add(connection, meter.session, bookings, 1_000_000, False, sqlalchemy.true())
    meter._in_doubt.append((1_000_000, bookings))
    threading.Timer(0.7, transaction.commit).start()
    clock[0] = 1_500_000
    meter.book(Activity.TRAIN, {Whose(RunKind.TRIAL, 1): 5})
    meter.flush()  # waits for the row that the other holds
    meter.close()
    connection.close()
    [session] = now.sessions("s")
    assert (session.booked_us, session.is_ended) == (1_500_000, True)
    assert sum(one.units for one in now.bookings("s")) == 15


def test_a_store_has_one_database(
    composed: Compose, home: Home, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_server = Home(home.root, database.replace("+psycopg", ""))
    keep_storage(on_server)
    assert json.loads(home.kept.read_text()) == {"optuna": database}
    Search(on_server, composed("study=demo", "search.trials=2")).engine.dispose()
    assert study_names(home) == ["demo"]  # found without being told
    assert begun(home, "demo") is None
    keep_storage(Home(home.root, database))
    with pytest.raises(ConfigError, match=r"are in one database, but .* and postgresql.*ann@elsewhere/x is asked"):
        keep_storage(Home(home.root, "postgresql://ann@elsewhere/x"))
    monkeypatch.setenv("SWEEPER_OPTUNA", database.replace("reader@", "reader:with-a-password@"))
    assert "with-a-password" in home.optuna_url
    assert "with-a-password" not in home.optuna_place
    monkeypatch.setenv("SWEEPER_OPTUNA", "mysql://ann@db/x")
    with pytest.raises(ConfigError, match="SWEEPER_OPTUNA: must be a PostgreSQL database's address"):
        home.optuna_url  # noqa: B018


def test_a_store_with_studies_keeps_its_file(
    composed: Compose, home: Home, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Search(home, composed("study=demo", "search.trials=2"))
    monkeypatch.setenv("SWEEPER_OPTUNA", database)
    assert home.optuna_url.startswith("sqlite:")  # who looks finds what is there
    with pytest.raises(
        ConfigError, match=r"those of .* are in .*optuna.db, and postgresql.* is asked for; store.home=DIR"
    ):
        launch(composed("study=demo", f"store.optuna={database}", "gpu=free"))
    assert not home.kept.exists()


def test_a_server_that_restarts_costs_nothing(
    composed: Compose, home: Home, server: PostgresqlServer, database: str
) -> None:
    said: list[str] = []
    on_server = Home(home.root, database)
    search = Search(on_server, composed("study=demo", "search.trials=2"), patience=Patience("it", 60.0, said.append))
    asked = ask(search)
    server.stop()
    threading.Timer(0.5, server.start).start()
    complete(search, asked.number, 0.5)
    assert ask(search).number == 1
    assert len(said) == 2
    assert view(on_server, "demo").counts() == {"COMPLETE": 1, "RUNNING": 1}
    search.engine.dispose()
