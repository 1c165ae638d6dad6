"""Random lives of workers: whatever happens, every microsecond of each is booked once, and every dollar has a label."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.money.bill import DEAD_ENDS, Bill, Label, bill, labels, usd_per_second
from sweeper.money.booking import STUDY, Activity, Booking, Whose, WorkerSession, split
from sweeper.money.ledger import Ledger
from sweeper.money.meter import Meter
from sweeper.money.price import HOUR_S, KWH_J, Price
from sweeper.search.leases import Holder
from sweeper.trial import RunKind

EXAMPLES = 500 if os.environ.get("SWEEPER_TESTS") == "all" else 40
FOREVER_S = 1e9
BY_GPU = Price(0.69, False, 0.0, 0.0, None, "by card", "a list")
PRICES = [
    None,
    BY_GPU,
    replace(BY_GPU, usd_per_hour=0.5),  # changed between sessions
    replace(BY_GPU, disk_usd_per_hour=0.02, boot_s=90.0),
    Price(1.2, True, 0.0, 0.0, None, "by machine", "a list"),
    Price(1.2, True, 0.03, 40.0, None, "by machine, with disk and boot", "a list"),
    Price(0.12, False, 0.0, 0.0, 0.3, "owned", None),
    Price(0.0, False, 0.0, 30.0, None, "free", None),
]
RUNS = [Whose(RunKind.TRIAL, number) for number in range(4)] + [Whose(RunKind.CONFIRMATION, 1)]
OTHERS = [Activity.LOAD, Activity.IDLE, Activity.CHECKPOINT, Activity.OVERHEAD]
SCORED = [Activity.EVALUATE, Activity.TEST, Activity.BASELINE]

number = st.integers(0, 5)
units = st.dictionaries(st.sampled_from(RUNS), st.integers(0, 5000), max_size=4)
events = st.one_of(
    st.tuples(st.just("pass"), st.integers(0, 4_000_000), st.integers(0, 2_000_000)),
    st.tuples(
        st.just("start"), st.integers(0, 1), st.sampled_from("st"), st.sampled_from(PRICES), st.integers(0, 10**7)
    ),
    st.tuples(st.just("book"), number, st.just(Activity.TRAIN), units),
    st.tuples(st.just("book"), number, st.sampled_from(SCORED), units),
    st.tuples(st.just("book"), number, st.sampled_from(OTHERS), st.just({})),
    st.tuples(st.just("flush"), number),
    st.tuples(st.just("close"), number),
    st.tuples(st.just("kill"), number),  # and a later start is the resume
    st.tuples(st.just("settle"), st.sampled_from([FOREVER_S, -1.0])),  # the dead; all, the living too
)


@dataclass
class Worker:
    """A worker, and what it should have in the ledger."""

    meter: Meter
    study: str
    energy_mj: list[int]
    begun_us: int
    seen_us: int  # when it was last heard of
    sessions: set[int] = field(default_factory=set)
    pending: list[tuple[Activity, int, int, dict[Whose, int]]] = field(default_factory=list)
    written: list[tuple[Activity, int, int, dict[Whose, int]]] = field(default_factory=list)
    marks: tuple[int, int] = (0, 0)
    is_closed: bool = False


class World:
    """Machines, a clock, and workers that live and die."""

    def __init__(self, ledger: Ledger, dead: set[int]) -> None:
        self.ledger, self.dead, self.us = ledger, dead, 50_000_000
        self.workers: list[Worker] = []
        self.living: list[Worker] = []

    def wall_s(self) -> float:
        return self.us / 1e6

    def happen(self, event: tuple[Any, ...]) -> None:
        name, *details = event
        if name == "pass":
            self.us += details[0]
            for worker in self.living:
                worker.energy_mj[0] += details[1]
        elif name == "start":
            self.start(*details)
        elif name == "settle":
            self.ledger.settle(details[0])
        elif self.living:
            getattr(self, name)(self.living[details[0] % len(self.living)], *details[1:])

    def start(self, machine: int, study: str, price: Price | None, before_us: int) -> None:
        energy_mj = [7]
        holder = Holder(f"host-{machine}", "boot", len(self.workers), 0.0)
        begun_us, device = self.us - before_us, f"cuda:{len(self.workers) % 2}"
        worker = Worker(
            Meter(
                *(self.ledger, study, device, price, begun_us / 1e6),
                *(lambda: energy_mj[0], lambda: self.us, self.wall_s, holder),
            ),
            *(study, energy_mj, begun_us, self.us),
            marks=(begun_us, 7),
        )
        worker.sessions.add(worker.meter.session)
        self.workers.append(worker)
        self.living.append(worker)

    def book(self, worker: Worker, activity: Activity, weights: dict[Whose, int]) -> None:
        passed_us, taken_mj = self.us - worker.marks[0], worker.energy_mj[0] - worker.marks[1]
        assert worker.meter.book(activity, weights) == passed_us / 1e6
        worker.pending.append((activity, passed_us, taken_mj, weights))
        worker.marks = (self.us, worker.energy_mj[0])

    def flush(self, worker: Worker) -> None:
        before = worker.meter.session
        worker.meter.flush()
        if worker.meter.session != before:  # it was taken for dead
            worker.sessions.add(worker.meter.session)
            worker.marks = (self.us, worker.energy_mj[0])
        else:
            worker.written += worker.pending
            worker.seen_us = self.us
        worker.pending.clear()

    def close(self, worker: Worker) -> None:
        self.book(worker, Activity.OVERHEAD, {})
        before = worker.meter.session
        worker.meter.close()
        worker.sessions.add(worker.meter.session)
        worker.written += worker.pending if worker.meter.session == before else []
        worker.seen_us, worker.is_closed = self.us, True
        self.kill(worker)

    def kill(self, worker: Worker) -> None:
        self.living.remove(worker)
        self.dead.add(self.workers.index(worker))


@contextmanager
def new_world() -> Iterator[World]:
    dead: set[int] = set()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Holder, "is_gone", property(lambda self: self.pid in dead))
        engine = sqlalchemy.create_engine(f"sqlite:///{Path(folder)}/ledger.db")
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA synchronous=OFF")
        yield World(Ledger(engine), dead)
        engine.dispose()


def sums(entries: list[tuple[Activity, int, int, dict[Whose, int]]]) -> dict[Activity, list[int]]:
    found: dict[Activity, list[int]] = defaultdict(lambda: [0, 0, 0])
    for activity, us, energy_mj, weights in entries:
        for index, size in enumerate((us, energy_mj, sum(weights.values()))):
            found[activity][index] += size
    return {activity: sizes for activity, sizes in found.items() if any(sizes)}


def booked(bookings: list[Booking], worker: Worker) -> list[Booking]:
    return [one for one in bookings if one.session in worker.sessions]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(events, min_size=20, max_size=60), st.dictionaries(st.integers(0, 3), st.sampled_from(Label)))
def test_every_microsecond_is_booked_once_and_every_dollar_has_a_label(
    script: list[tuple[Any, ...]], outcomes: dict[int, Label]
) -> None:
    with new_world() as world:
        for event in script:
            world.happen(event)
        for worker in list(world.living):
            world.kill(worker)
        world.ledger.settle(FOREVER_S)
        sessions = {study: world.ledger.sessions(study) for study in "st"}
        bookings = {study: world.ledger.bookings(study) for study in "st"}
        for worker in world.workers:
            check_worker(worker, sessions[worker.study], booked(bookings[worker.study], worker))
        for study in "st":
            account = bill(study, sessions[study], bookings[study], labels(outcomes))
            check_bill(account, study, sessions[study], bookings[study])


def check_worker(worker: Worker, sessions: list[WorkerSession], bookings: list[Booking]) -> None:
    own = [one for one in sessions if one.id in worker.sessions]
    assert all(one.is_ended and one.booked_us == one.heartbeat_us for one in own)
    assert all(min(one.us, one.energy_mj, one.units) >= 0 for one in bookings)
    assert sum(one.us for one in bookings) == worker.seen_us - worker.begun_us
    entries = [(one.activity, one.us, one.energy_mj, {one.whose: one.units}) for one in bookings]
    expected = sums(worker.written)
    found = sums(entries)
    lost_us = found.pop(Activity.LOST, [0])[0]
    assert found == expected
    assert lost_us == worker.seen_us - worker.begun_us - sum(sizes[0] for sizes in expected.values())
    energy_mj, taken_mj = sum(one.energy_mj for one in bookings), worker.energy_mj[0] - 7
    assert energy_mj == taken_mj if worker.is_closed else energy_mj <= taken_mj


def hourly_by_moments(sessions: list[WorkerSession], study: str) -> float:
    """What the workers of a study cost without electricity and boots, moment by moment."""
    total = 0.0
    for machine in {one.machine for one in sessions}:
        spans = [
            (one, one.started_s, one.started_s + one.heartbeat_us / 1e6) for one in sessions if one.machine == machine
        ]
        edges = sorted({edge for _, begin, end in spans for edge in (begin, end)})
        for left, right in pairwise(edges):
            here = [one for one, begin, end in spans if begin < (left + right) / 2 < end]
            for one in here:
                if one.study == study and one.price is not None:
                    shared = one.price.usd_per_hour if one.price.is_per_machine else 0.0
                    alone = one.price.usd_per_hour - shared
                    hourly = alone + (shared + one.price.disk_usd_per_hour) / len(here)
                    total += hourly * (right - left) / HOUR_S
    return total


def check_bill(account: Bill, study: str, sessions: list[WorkerSession], bookings: list[Booking]) -> None:
    rates = usd_per_second(sessions)
    own = {one.id: one for one in sessions if one.study == study}
    boots = [line for line in account.lines if line.activity is None]
    energy = [
        one.energy_mj / 1000 / KWH_J * price.tariff_usd_per_kwh
        for one in bookings
        if (price := own[one.session].price) is not None and price.tariff_usd_per_kwh is not None
    ]
    boot_usd = sum(line.usd or 0.0 for line in boots)
    seconds_usd = sum(one.heartbeat_us / 1e6 * rates[one.id] for one in own.values() if one.id in rates)
    whole = seconds_usd + sum(energy) + boot_usd
    assert account.usd is None or account.usd == pytest.approx(whole, abs=1e-9)
    assert whole == pytest.approx(hourly_by_moments(sessions, study) + sum(energy) + boot_usd, rel=1e-6, abs=1e-9)
    if account.usd is None:
        assert whole == 0
        assert all(one.price is None or not one.heartbeat_us for one in own.values())
    parts = account.by_label()
    assert sum(len(part.lines) for part in parts.values()) == len(account.lines)
    assert sum(part.usd or 0.0 for part in parts.values()) == pytest.approx(account.usd or 0.0, abs=1e-9)
    assert sum(part.seconds for part in parts.values()) == pytest.approx(account.seconds)
    assert account.seconds == pytest.approx(
        sum(one.heartbeat_us for one in own.values()) / 1e6 + sum(line.seconds for line in boots)
    )
    unpriced_us = sum(one.heartbeat_us for one in own.values() if one.price is None)
    assert account.unpriced_s == pytest.approx(unpriced_us / 1e6)
    assert account.of(*DEAD_ENDS).seconds <= account.seconds + 1e-9
    assert all(line.seconds >= 0 and (line.usd is None or line.usd >= 0) for line in account.lines)


@given(st.integers(0, 10**15), st.dictionaries(st.sampled_from(RUNS), st.integers(0, 10**9)))
def test_parts_add_up_exactly_and_are_fair(total: int, weights: dict[Whose, int]) -> None:
    parts = split(total, weights)
    assert sum(parts.values()) == total
    assert set(parts) == (set(weights) or {STUDY})
    whole = sum(weights.values())
    for whose, weight in weights.items():
        fair = total * weight / whole if whole else total / len(weights)
        assert parts[whose] == pytest.approx(fair, abs=1, rel=1e-12)
        assert parts[whose] >= 0


spans = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 60), st.sampled_from("st")), min_size=1, max_size=8)


@given(spans)
def test_a_machine_is_paid_once_however_many_share_it(spans: list[tuple[int, int, str]]) -> None:
    price = Price(3.6, True, 0.36, 0.0, None, "a machine", None)
    sessions = [session(number, begin, length, study, price) for number, (begin, length, study) in enumerate(spans)]
    up_s = len({second for begin, length, _ in spans for second in range(begin, begin + length)})
    bills = [bill(study, sessions, full_bookings(sessions, study), labels({})) for study in "st"]
    assert sum(one.usd or 0.0 for one in bills) == pytest.approx(up_s * (3.6 + 0.36) / HOUR_S)
    apart = [replace(one, machine=str(one.id)) for one in sessions]
    bills = [bill(study, apart, full_bookings(apart, study), labels({})) for study in "st"]
    assert sum(one.usd or 0.0 for one in bills) == pytest.approx(sum(length for _, length, _ in spans) * 3.96 / HOUR_S)


def session(number: int, begin_s: float, length_s: float, study: str, price: Price | None) -> WorkerSession:
    length_us = round(length_s * 1e6)
    return WorkerSession(number, study, "machine", "cuda:0", begin_s, length_us, length_us, True, price)


def full_bookings(sessions: list[WorkerSession], study: str) -> list[Booking]:
    return [Booking(one.id, STUDY, Activity.TRAIN, one.heartbeat_us) for one in sessions if one.study == study]
