from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from sweeper.money.booking import STUDY, Activity, Booking, Whose, WorkerSession, split
from sweeper.money.ledger import Ledger, SessionEndedError
from sweeper.money.meter import Meter
from sweeper.money.price import Price
from sweeper.search.leases import Holder
from sweeper.trial import RunKind

HERE = Holder.this_process()
GONE = replace(HERE, started_s=HERE.started_s - 1000)  # a process that had this one's number before
ELSEWHERE = replace(HERE, host="another-machine")
FOREVER_S = 1e9
PRICE = Price(0.36, True, 0.01, 60.0, 0.3, "a card", "us")
ONE, TWO = Whose(RunKind.TRIAL, 1), Whose(RunKind.TRIAL, 2)


class Clock:
    def __init__(self) -> None:
        self.us = 7_000_000

    def __call__(self) -> int:
        return self.us

    def wall_s(self) -> float:
        return 1.8e9 + self.us / 1e6


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    engine = sqlalchemy.create_engine(database)
    yield Ledger(engine)
    engine.dispose()


def opened(ledger: Ledger, clock: Clock, before_s: float = 0.0, holder: Holder = HERE, device: str = "d") -> Meter:
    started_s = clock.wall_s() - before_s
    return Meter(ledger, "s", device, PRICE, started_s, lambda: 0, clock, clock.wall_s, holder)


def check(ledger: Ledger, study: str = "s") -> tuple[list[WorkerSession], list[Booking]]:
    """All sessions and bookings; what is booked of each session is the sum of its bookings, and no more than passed."""
    sessions = [one for one in ledger.sessions(study) if one.study == study]
    bookings = ledger.bookings(study)
    for session in sessions:
        own = [one for one in bookings if one.session == session.id]
        assert session.booked_us == sum(one.us for one in own)
        assert 0 <= session.booked_us <= session.heartbeat_us
        assert all(min(one.us, one.energy_mj, one.units) >= 0 for one in own)
        assert len({(one.whose, one.activity) for one in own}) == len(own)
        if session.is_ended:
            assert session.booked_us == session.heartbeat_us
    return sessions, bookings


def test_what_has_passed_is_booked_and_split_by_tokens(ledger: Ledger) -> None:
    clock = Clock()
    meter = opened(ledger, clock, before_s=3.0)
    assert meter.book(Activity.LOAD) == 3.0
    clock.us += 1_000_001
    assert meter.book(Activity.TRAIN, {ONE: 300, TWO: 100}) == pytest.approx(1.000001)
    clock.us += 1_000_000
    meter.flush()
    assert meter.elapsed_us() == 5_000_001  # the last of these is not known yet for what it was
    clock.us += 500_000
    meter.close(Activity.IDLE)
    [session], bookings = check(ledger)
    assert (session.price, session.device, session.is_ended) == (PRICE, "d", True)
    assert session.started_s == pytest.approx(1.8e9 + 4)
    assert session.heartbeat_us == 5_500_001
    assert sorted(bookings, key=lambda one: (one.activity, one.whose)) == [
        Booking(session.id, STUDY, Activity.IDLE, 1_500_000),
        Booking(session.id, STUDY, Activity.LOAD, 3_000_000),
        Booking(session.id, ONE, Activity.TRAIN, 750_001, units=300),
        Booking(session.id, TWO, Activity.TRAIN, 250_000, units=100),
    ]


def test_parts_add_up_to_the_whole() -> None:
    three = {Whose(RunKind.TRIAL, number): 1 for number in range(3)}
    assert sorted(split(100, three).values()) == [33, 33, 34]
    assert split(100, dict.fromkeys(three, 0)) == split(100, three)  # nobody had a token: equal parts
    assert split(7, {}) == {STUDY: 7}
    assert split(0, {ONE: 5}) == {ONE: 0}
    assert split(10, {ONE: 0, TWO: 4}) == {ONE: 0, TWO: 10}


def test_the_lost_time_of_the_dead_is_booked_once(ledger: Ledger) -> None:
    clock = Clock()
    meter = opened(ledger, clock, before_s=2.0, holder=GONE)
    clock.us += 1_000_000
    meter.book(Activity.LOAD)
    clock.us += 400_000
    meter.flush()
    clock.us += 900_000  # of these nobody knows
    assert ledger.settle(FOREVER_S) == [meter.session]
    assert ledger.settle(FOREVER_S) == []
    [session], bookings = check(ledger)
    assert session.heartbeat_us == 3_400_000
    assert Booking(session.id, STUDY, Activity.LOST, 400_000) in bookings


def test_who_dies_before_the_first_booking_has_lost_what_had_passed(ledger: Ledger) -> None:
    meter = opened(ledger, Clock(), before_s=12.5, holder=GONE)
    assert ledger.settle(FOREVER_S) == [meter.session]
    [session], [lost] = check(ledger)
    assert (session.heartbeat_us, lost.activity, lost.us) == (12_500_000, Activity.LOST, 12_500_000)


def test_only_the_gone_and_the_silent_are_settled(ledger: Ledger) -> None:
    clock = Clock()
    here, there = opened(ledger, clock), opened(ledger, clock, holder=ELSEWHERE)
    assert ledger.settle(0.3) == []  # whoever looks for the first time knows of no silence
    time.sleep(0.35)
    clock.us += 1000
    here.flush()
    assert Ledger(ledger.engine).settle(0.3) == []
    assert ledger.settle(0.3) == [there.session]
    assert check(ledger)[0][1].is_ended


def test_what_has_passed_of_a_reservation_is_not_reserved_any_more(ledger: Ledger) -> None:
    clock = Clock()
    one, two = opened(ledger, clock, before_s=3.0), opened(ledger, clock)
    for meter, ahead_us in ((one, 10_000_000), (two, 4_000_000)):
        ledger.reserve(meter.session, meter.elapsed_us() + ahead_us)
    assert ledger.reserved_us("s") == {one.session: 10_000_000, two.session: 4_000_000}
    for passed_us, left_us in ((1_500_000, (8_500_000, 2_500_000)), (6_000_000, (2_500_000, 0))):
        clock.us += passed_us
        for meter in (one, two):
            meter.book(Activity.TRAIN, {ONE: 1})
            meter.flush()
        assert ledger.reserved_us("s") == dict(zip((one.session, two.session), left_us, strict=True))
    one.close()
    assert ledger.reserved_us("s") == {two.session: 0}


def test_a_worker_that_was_taken_for_dead_goes_on_from_its_last_heartbeat(ledger: Ledger) -> None:
    clock, energy = Clock(), [0]
    meter = Meter(ledger, "s", "d", PRICE, clock.wall_s(), lambda: energy[0], clock, clock.wall_s, GONE)
    clock.us, energy[0] = clock.us + 1_000_000, 10
    meter.book(Activity.TRAIN, {ONE: 5})
    meter.flush()
    [first] = ledger.settle(FOREVER_S)
    clock.us, energy[0] = clock.us + 2_000_000, 30
    meter.book(Activity.TRAIN, {ONE: 5})
    clock.us, energy[0] = clock.us + 500_000, 36
    meter.flush()  # sees that it was ended
    clock.us += 250_000
    meter.book(Activity.EVALUATE, {ONE: 7})
    meter.close()
    (before, after), bookings = check(ledger)
    assert (before.id, before.heartbeat_us, after.heartbeat_us) == (first, 1_000_000, 2_750_000)
    assert after.started_s == pytest.approx(before.started_s + 1.0)
    assert after.price == before.price
    assert [(one.activity, one.us, one.energy_mj) for one in bookings if one.session == after.id and one.us] == [
        (Activity.LOST, 2_500_000, 26),
        (Activity.EVALUATE, 250_000, 0),
    ]


def test_a_session_that_has_ended_takes_no_more(ledger: Ledger) -> None:
    meter = opened(ledger, Clock())
    meter.close()
    with pytest.raises(SessionEndedError):
        ledger.book(meter.session, [Booking(meter.session, ONE, Activity.TRAIN, 1)], 10)
    assert sum(one.us for one in ledger.bookings("s")) == 0


def test_more_than_has_passed_is_refused(ledger: Ledger) -> None:
    number = ledger.open("s", "d", 1.8e9, None)
    ledger.book(number, [Booking(number, ONE, Activity.TRAIN, 10)], 10)
    for bookings, heartbeat_us in (([Booking(number, ONE, Activity.TRAIN, 11)], 20), ([], 9)):
        with pytest.raises(ValueError, match=f"no more can be booked than {heartbeat_us} µs"):
            ledger.book(number, bookings, heartbeat_us)
    with pytest.raises(ValueError, match="must not be negative"):
        ledger.book(number, [Booking(number, ONE, Activity.TRAIN, -1)], 30)
    [session], [booking] = check(ledger)
    assert (session.price, booking.us) == (None, 10)


def test_what_nothing_measures_has_no_price_rather_than_zero(ledger: Ledger) -> None:
    clock = Clock()
    metered = Meter(ledger, "s", "d", PRICE, clock.wall_s(), lambda: 0, clock, clock.wall_s)
    unmetered = Meter(ledger, "s", "d", PRICE, clock.wall_s(), None, clock, clock.wall_s)
    assert metered.price == PRICE
    assert unmetered.price == replace(PRICE, tariff_usd_per_kwh=None)


class Failing(Ledger):
    """Loses the connection in a write: before it, or after it was done."""

    fails: str | None = None

    def book(self, *arguments: Any, **named: Any) -> None:
        if self.fails != "before":
            super().book(*arguments, **named)
        if self.fails is not None:
            raise OperationalError("UPDATE", {}, Exception("the connection was lost"))


@pytest.mark.parametrize("fails", ["before", "after"])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_write_that_failed_is_done_once(database: str, fails: str, is_last: bool) -> None:
    engine = sqlalchemy.create_engine(database)
    ledger, clock = Failing(engine), Clock()
    meter = opened(ledger, clock)
    clock.us += 100
    meter.book(Activity.TRAIN, {ONE: 3, TWO: 1})
    meter.flush()
    clock.us += 100
    meter.book(Activity.TRAIN, {ONE: 3, TWO: 1})
    clock.us += 0 if is_last else 50
    ledger.fails = fails
    with pytest.raises(OperationalError):
        meter.flush(is_last)
    ledger.fails = None
    if not is_last:
        clock.us += 100
        meter.book(Activity.TRAIN, {ONE: 1, TWO: 1})
        meter.flush()
        clock.us += 10
        meter.book(Activity.IDLE)
    meter.flush(is_last=True)
    [session], bookings = check(ledger)
    assert session.is_ended
    assert {one.whose: (one.us, one.units) for one in bookings if one.activity is Activity.TRAIN} == (
        {ONE: (150, 6), TWO: (50, 2)} if is_last else {ONE: (225, 7), TWO: (125, 3)}
    )
    engine.dispose()


def test_two_threads_book_and_two_write(ledger: Ledger) -> None:
    meter = Meter(ledger, "s", "d", None, time.time())
    counts = [0, 0]

    def work(number: int) -> None:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            meter.book(Activity.TRAIN, {Whose(RunKind.TRIAL, number): 1})
            counts[number] += 1

    with meter.beating(every_s=0.005):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            meter.flush()
        for thread in threads:
            thread.join()
    [session], bookings = check(ledger)
    assert session.is_ended
    assert session.booked_us >= 500_000
    assert [one.units for one in bookings if one.activity is Activity.TRAIN] == counts


WORKER = """
import sys, time, sqlalchemy
from sweeper.money.booking import Activity, Whose
from sweeper.money.ledger import Ledger
from sweeper.money.meter import Meter
from sweeper.trial import RunKind
meter = Meter(Ledger(sqlalchemy.create_engine(sys.argv[1])), "s", "d", None, time.time() - 5)
with meter.beating(every_s=0.02):
    meter.book(Activity.LOAD)
    print("ready", flush=True)
    while True:
        time.sleep(0.001)
        meter.book(Activity.TRAIN, {Whose(RunKind.TRIAL, 1): 10})
        if int(sys.argv[2]):
            time.sleep(60)
"""


@pytest.mark.parametrize("is_in_a_long_step", [0, 1])
def test_a_process_that_is_killed_is_settled_by_another(ledger: Ledger, database: str, is_in_a_long_step: int) -> None:
    before_s = time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, database, str(is_in_a_long_step)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.4)
        assert ledger.settle(FOREVER_S) == []
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    passed_s = time.time() - before_s
    [number] = ledger.settle(FOREVER_S)
    [session], bookings = check(ledger)
    by_activity = {one.activity: one.us / 1e6 for one in bookings}
    assert (session.id, session.is_ended) == (number, True)
    assert 5 < session.heartbeat_us / 1e6 < 5 + passed_s
    assert sum(by_activity.values()) == pytest.approx(session.heartbeat_us / 1e6)
    assert by_activity[Activity.LOAD] >= 5
    if is_in_a_long_step:
        assert by_activity[Activity.LOST] > 0.05
    else:
        assert by_activity.get(Activity.LOST, 0.0) < by_activity[Activity.TRAIN]


def test_settlers_and_the_living_do_not_disturb_each_other(ledger: Ledger) -> None:
    """A worker that writes while two others settle it as silent is settled or alive, and never both."""
    meter = Meter(ledger, "s", "d", None, time.time())
    begun, is_over = time.monotonic(), threading.Event()

    def settle() -> None:
        while not is_over.is_set():
            ledger.settle(-1.0)  # everybody is silent

    threads = [threading.Thread(target=settle, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < begun + 0.6 or (len(ledger.sessions("s")) == 1 and time.monotonic() < begun + 30):
        meter.book(Activity.TRAIN, {ONE: 1})
        meter.flush()
    is_over.set()
    for thread in threads:
        thread.join()
    meter.close()
    sessions, bookings = check(ledger)
    assert len(sessions) > 1
    assert all(one.is_ended for one in sessions)
    assert sum(one.us for one in bookings) == sum(one.heartbeat_us for one in sessions)


def test_studies_are_apart_but_for_the_machines_that_they_share(ledger: Ledger) -> None:
    clock = Clock()
    mine, other = (
        Meter(ledger, study, "d", PRICE, clock.wall_s(), None, clock, clock.wall_s, HERE) for study in ("s", "t")
    )
    elsewhere = Meter(ledger, "t", "d", PRICE, clock.wall_s(), None, clock, clock.wall_s, ELSEWHERE)
    for meter, until_us in ((mine, 10), (other, 20), (elsewhere, 30)):
        ledger.reserve(meter.session, until_us)
    assert ledger.reserved_us("s") == {mine.session: 10}
    assert ledger.reserved_us("t") == {other.session: 20, elsewhere.session: 30}
    clock.us += 1000
    for meter in (mine, other):
        meter.book(Activity.TRAIN, {ONE: 1})
        meter.close()
    assert [one.study for one in ledger.sessions("s")] == ["s", "t"]
    assert {one.session for one in ledger.bookings("s")} == {mine.session}
    ledger.drop("s")
    assert (ledger.sessions("s"), ledger.bookings("s")) == ([], [])
    assert {one.session for one in ledger.bookings("t")} == {other.session}
    sessions, bookings = ledger.everything()
    assert {one.id for one in sessions} == {other.session, elsewhere.session}
    assert {one.session for one in bookings} == {other.session}  # and nothing is left of the other study


def test_the_same_holds_on_postgresql(postgresql: str) -> None:
    engine = sqlalchemy.create_engine(postgresql)
    failures: list[Exception] = []

    def make() -> None:
        try:
            Ledger(engine)
        except Exception as error:
            failures.append(error)

    makers = [threading.Thread(target=make) for _ in range(4)]  # of the tables, all at once
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert failures == []
    for test in (
        test_what_has_passed_is_booked_and_split_by_tokens,
        test_the_lost_time_of_the_dead_is_booked_once,
        test_only_the_gone_and_the_silent_are_settled,
        test_what_has_passed_of_a_reservation_is_not_reserved_any_more,
        test_a_worker_that_was_taken_for_dead_goes_on_from_its_last_heartbeat,
        test_more_than_has_passed_is_refused,
        test_two_threads_book_and_two_write,
        test_settlers_and_the_living_do_not_disturb_each_other,
    ):
        ledger = Ledger(engine)
        ledger.drop("s")
        test(ledger)
    engine.dispose()
