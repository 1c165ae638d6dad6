"""A study that nothing trained, with bookings made by hand: at $3.6 an hour a second costs a tenth of a cent."""

from __future__ import annotations

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.money.booking import STUDY, Activity, Booking, Whose
from sweeper.money.ledger import Ledger
from sweeper.money.pace import Pace
from sweeper.money.price import Price
from sweeper.paths import Home, StudyPaths
from sweeper.search.study import Search
from sweeper.search.views import open_storage
from sweeper.trial import Reason, RunKind
from tests.search.conftest import RECORD, ask, curve

PRICED = ("gpu.price_usd_per_hour=3.6", "gpu.price_source=nobody", "gpu.price_date=2026-11-01")
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
SOLO_S = {0: 30.0, 1: 15.0, 2: 8.0, 3: 4.0}
SETUP_S = 6.0


def study(home: Home, config: Config) -> Search:
    """A winner, another complete trial, a pruned, a diverged, an infeasible and a running one."""
    paths = home.study(config.study.name)
    paths.create()
    check.save(config, paths)
    search = Search(home, config)
    for number, value in ((0, 0.7), (1, 0.5)):
        assert ask(search).number == number
        search.report(number, curve(value), may_prune=False)
        record = {**RECORD, "metrics": curve(value)[0], "curve": curve(value), "examples_seen": 32}
        search.complete(number, value, {**record, "solo_s": SOLO_S[number]}, {})
    for number, reason in ((2, Reason.PRUNER), (3, Reason.DIVERGED), (4, Reason.INFEASIBLE)):
        assert ask(search).number == number
        own = {"solo_s": SOLO_S[number], "examples_seen": 16} if number in SOLO_S else {"examples_seen": 0}
        search.prune(number, reason, {**RECORD, **own}, {})
    assert ask(search).number == 5
    search.remember("pace", Pace(setup_s=SETUP_S).as_dict())
    return search


def book(
    ledger: Ledger,
    config: Config,
    seconds: dict[tuple[Whose, Activity], float],
    started_s: float,
    open_s: float | None = None,
) -> int:
    """A session with bookings; without open seconds, it has ended."""
    session = ledger.open(config.study.name, "cpu", started_s, Price.of(config.gpu))
    bookings = [Booking(session, *key, round(value * 1e6)) for key, value in seconds.items()]
    heartbeat_s = sum(seconds.values()) + (open_s or 0.0)
    ledger.book(session, bookings, round(heartbeat_s * 1e6), is_last=open_s is None)
    return session


def booked(home: Home, config: Config) -> StudyPaths:
    """The study with both sessions."""
    study(home, config)
    ledger = Ledger(open_storage(home).engine)
    book(ledger, config, FIRST, STARTED_S)
    book(ledger, config, SECOND, STARTED_S + 200.0, OPEN_S)
    return home.study(config.study.name)
