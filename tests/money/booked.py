"""A study that nothing trained, with bookings made by hand: at $3.6 an hour a second costs a tenth of a cent."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Engine, create_engine

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.money.booking import STUDY, Activity, Booking, Whose
from sweeper.money.ledger import Ledger
from sweeper.money.pace import Pace
from sweeper.money.price import Price
from sweeper.paths import Home, StudyPaths
from sweeper.search.storage import open_storage
from sweeper.search.study import Search
from sweeper.search.views import StudyView
from sweeper.trial import Reason, RunKind
from tests.launch.test_tables import trial
from tests.search.conftest import RECORD, ask, curve

PRICED = ("gpu.price_usd_per_hour=3.6", "gpu.price_source=nobody", "gpu.price_date=2026-11-01")
PRICE = Price(3.6, False, 0.0, 0.0, None, "auto, on demand", "nobody, 2026-11-01")  # the same
STARTED_S = 1_790_000_000.0
# The first session, which was killed: 100 seconds.
FIRST = {
    (STUDY, Activity.PREFLIGHT): 3.0,
    (STUDY, Activity.LOAD): 10.0,
    (STUDY, Activity.BASELINE): 5.0,
    (Whose(RunKind.TRIAL, 0), Activity.TRAIN): 20.0,
    (Whose(RunKind.TRIAL, 0), Activity.EVALUATE): 5.0,
    (Whose(RunKind.TRIAL, 1), Activity.TRAIN): 10.0,
    (Whose(RunKind.TRIAL, 1), Activity.EVALUATE): 2.0,
    (Whose(RunKind.TRIAL, 2), Activity.TRAIN): 6.0,
    (Whose(RunKind.TRIAL, 2), Activity.EVALUATE): 1.0,
    (Whose(RunKind.TRIAL, 3), Activity.TRAIN): 3.0,
    (Whose(RunKind.CONFIRMATION, 1), Activity.TRAIN): 12.0,
    (Whose(RunKind.CONFIRMATION, 1), Activity.EVALUATE): 3.0,
    (STUDY, Activity.TEST): 4.0,
    (STUDY, Activity.CHECKPOINT): 1.0,
    (STUDY, Activity.IDLE): 2.0,
    (STUDY, Activity.OVERHEAD): 8.0,
    (STUDY, Activity.LOST): 5.0,
}
# The second, which runs: 4 seconds are booked, 2 are not yet.
SECOND = {(Whose(RunKind.TRIAL, 5), Activity.TRAIN): 4.0}
OPEN_S = 2.0
BOOKED_S, LINES = 104.0, 18
SOLO_S = {0: 30.0, 1: 15.0, 2: 8.0, 3: 4.0}
SETUP_S = 6.0


def seen(name: str = "demo") -> StudyView:
    """A winner, another complete trial, a pruned, a diverged, an infeasible and a running one."""
    trials = [
        trial(0, 0.7),
        trial(1, 0.5),
        trial(2, None, reason=Reason.PRUNER),
        trial(3, None, reason=Reason.DIVERGED),
        trial(4, None, reason=Reason.INFEASIBLE, examples_seen=0),
        trial(5, None, state="RUNNING"),
    ]
    trials = [replace(one, solo_s=SOLO_S.get(one.number)) for one in trials]
    return StudyView(name, trials, {"pace": Pace(setup_s=SETUP_S).as_dict()})


def ledger_of(price: Price | None, *names: str) -> tuple[Engine, Ledger]:
    """A ledger in memory with both sessions of each study."""
    engine = create_engine("sqlite://")
    ledger = Ledger(engine)
    for name in names:
        book(ledger, name, price, FIRST, STARTED_S)
        book(ledger, name, price, SECOND, STARTED_S + 200.0, OPEN_S)
    return engine, ledger


def book(
    ledger: Ledger,
    name: str,
    price: Price | None,
    seconds: dict[tuple[Whose, Activity], float],
    started_s: float,
    open_s: float | None = None,
) -> int:
    """A session with bookings; without open seconds, it has ended."""
    session = ledger.open(name, "cpu", started_s, price)
    bookings = [Booking(session, *key, round(value * 1e6)) for key, value in seconds.items()]
    heartbeat_s = sum(seconds.values()) + (open_s or 0.0)
    ledger.book(session, bookings, round(heartbeat_s * 1e6), is_last=open_s is None)
    return session


def stored(home: Home, config: Config) -> StudyPaths:
    """The same study in a real store."""
    paths = home.study(config.study.name)
    paths.create()
    check.save(config, paths)
    search = Search(home, config)
    for one in seen().trials:
        assert ask(search).number == one.number
        record = {**RECORD, "examples_seen": one.examples_seen, "solo_s": one.solo_s}
        if one.value is not None:
            search.report(one.number, curve(one.value), may_prune=False)
            scores = {"metrics": curve(one.value)[0], "curve": curve(one.value)}
            search.complete(one.number, one.value, {**record, **scores}, {})
        elif one.reason is not None:
            search.prune(one.number, Reason(one.reason), record, {})
    search.remember("pace", Pace(setup_s=SETUP_S).as_dict())
    ledger, price = Ledger(open_storage(home).engine), Price.of(config.gpu)
    book(ledger, paths.name, price, FIRST, STARTED_S)
    book(ledger, paths.name, price, SECOND, STARTED_S + 200.0, OPEN_S)
    return paths
