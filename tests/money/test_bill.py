from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from sweeper.money.account import account
from sweeper.money.bill import Bill, Label, bill, labels, usd_per_second
from sweeper.money.booking import SECOND_US, STUDY, Activity, Booking, Whose, WorkerSession
from sweeper.money.ledger import Ledger
from sweeper.money.price import KWH_J, Price
from sweeper.search.views import StudyView
from sweeper.trial import RunKind
from tests.launch.test_tables import trial

RENTED = Price(3.6, False, 0.0, 0.0, None, "a card", "a list")  # a tenth of a cent a second
TRIALS = [Whose(RunKind.TRIAL, number) for number in range(5)]
OUTCOMES = {0: Label.WINNER, 1: Label.PRUNED, 2: Label.INFEASIBLE, 3: Label.FAILED}


def held(number: int, seconds: float, price: Price | None, begun_s: float = 100.0, **other: str) -> WorkerSession:
    us = round(seconds * SECOND_US)
    return replace(WorkerSession(number, "s", "m", "cuda:0", begun_s, us, us, True, price), **other)


def spent(whose: Whose, activity: Activity, seconds: float, session: int = 1, **other: int) -> Booking:
    return Booking(session, whose, activity, round(seconds * SECOND_US), **other)


def test_every_second_has_a_label_and_its_dollars() -> None:
    bookings = [
        spent(STUDY, Activity.LOAD, 10),
        spent(TRIALS[0], Activity.TRAIN, 20, units=500),
        spent(TRIALS[0], Activity.EVALUATE, 5, units=60),
        spent(TRIALS[1], Activity.TRAIN, 7),
        spent(TRIALS[2], Activity.CHECKPOINT, 1),
        spent(TRIALS[3], Activity.TRAIN, 2),
        spent(TRIALS[4], Activity.TRAIN, 3),
        spent(Whose(RunKind.CONFIRMATION, 0), Activity.TRAIN, 11),
        spent(Whose(RunKind.LEARNING_CURVE, 0), Activity.TRAIN, 13),
        spent(Whose(RunKind.BASELINE), Activity.BASELINE, 4),
        spent(STUDY, Activity.LOST, 9),
        spent(STUDY, Activity.IDLE, 15),
    ]
    whole = bill("s", [held(1, 100, RENTED)], bookings, labels(OUTCOMES))
    assert {label.value: part.seconds for label, part in whole.by_label().items()} == {
        "winner": 25,
        "pruned": 7,
        "infeasible": 1,
        "failed": 2,
        "unfinished": 3,
        "confirmation": 11,
        "learning-curve": 13,
        "overhead": 29,
        "lost": 9,
    }
    assert whole.usd == pytest.approx(0.1)
    assert whole.of_run(TRIALS[0]).metrics() == {
        "cost/device_s": 25,
        "cost/usd": pytest.approx(0.025),
        "cost/usd_train": pytest.approx(0.02),
        "cost/usd_eval": pytest.approx(0.005),
    }
    assert whole.of_run(TRIALS[0]).of_activity(Activity.TRAIN).lines[0].units == 500
    assert (whole.of(Label.LOST).usd, whole.of(Label.LOST).seconds) == (pytest.approx(0.009), 9)


def test_what_has_no_price_has_seconds_and_no_zero() -> None:
    bookings = [spent(TRIALS[0], Activity.TRAIN, 20), spent(TRIALS[0], Activity.TRAIN, 30, session=2)]
    none = bill("s", [held(1, 20, None), held(2, 30, None, 120.0)], bookings, labels({}))
    assert (none.usd, none.energy_usd, none.unpriced_s) == (None, None, 50)
    assert none.metrics() == {"cost/device_s": 50}
    # A price that came later counts from then on.
    some = bill("s", [held(1, 20, None), held(2, 30, RENTED, 120.0)], bookings, labels({}))
    assert some.usd == pytest.approx(0.03)
    assert some.unpriced_s == 20
    free = bill("s", [held(1, 20, replace(RENTED, usd_per_hour=0.0))], bookings[:1], labels({}))
    assert (free.usd, free.unpriced_s) == (0.0, 0)


def test_electricity_is_paid_by_the_meter() -> None:
    owned = replace(RENTED, usd_per_hour=0.36, tariff_usd_per_kwh=0.5)
    bookings = [spent(TRIALS[0], Activity.TRAIN, 20, energy_mj=int(KWH_J * 1000)), spent(STUDY, Activity.LOAD, 80)]
    whole = bill("s", [held(1, 100, owned)], bookings, labels(OUTCOMES))
    assert whole.usd == pytest.approx(0.01 + 0.5)
    assert whole.of(Label.WINNER).metrics()["cost/usd_energy"] == 0.5
    unmetered = bill("s", [held(1, 100, replace(owned, tariff_usd_per_kwh=None))], bookings, labels(OUTCOMES))
    assert (unmetered.energy_usd, unmetered.usd) == (None, pytest.approx(0.01))


def test_a_machine_is_shared_while_two_are_on_it() -> None:
    machine = replace(RENTED, is_per_machine=True)
    sessions = [held(1, 10, machine, 100.0), held(2, 10, machine, 105.0, study="t", device="cuda:1")]
    rates = usd_per_second(sessions)
    assert {number: 10 * rate for number, rate in rates.items()} == pytest.approx({1: 0.0075, 2: 0.0075})
    for_each = usd_per_second([replace(one, price=RENTED) for one in sessions])
    assert for_each == pytest.approx({1: 0.001, 2: 0.001})
    disk = replace(RENTED, disk_usd_per_hour=3.6)  # of the machine, whatever the price of a card is per
    assert usd_per_second([replace(one, price=disk) for one in sessions]) == pytest.approx({1: 0.00175, 2: 0.00175})


@pytest.mark.parametrize(("is_per_machine", "boots"), [(True, {1: 0.2}), (False, {1: 0.2, 2: 0.1})])
def test_a_boot_is_billed_once_for_what_is_rented(is_per_machine: bool, boots: dict[int, float]) -> None:
    price = replace(RENTED, is_per_machine=is_per_machine, boot_s=100.0, disk_usd_per_hour=3.6)
    sessions = [
        held(3, 5, price, 130.0),  # the same card again
        held(1, 5, price, 100.0),
        held(2, 5, price, 110.0, device="cuda:1"),
        held(4, 5, replace(price, boot_s=0.0), 120.0, machine="n"),
    ]
    found = bill("s", sessions, [], labels({}))
    assert [line.usd for line in found.lines] == pytest.approx(list(boots.values()))
    assert found.of(Label.OVERHEAD).seconds == 100 * len(boots)
    mixed = [held(1, 5, price), held(2, 5, replace(price, is_per_machine=not is_per_machine), 110.0, device="cuda:1")]
    assert [line.usd for line in bill("s", mixed, [], labels({})).lines] == pytest.approx(
        [0.2]
    )  # another price, one boot
    # One that boots for nothing, or has no price, hides none that came after it; nor does the same card again.
    last = held(6, 5, price, 140.0, machine="o")
    hidden = [held(5, 5, None, 90.0, machine="n"), *sessions, last]
    lines = bill("s", hidden, [], labels({})).lines
    assert [line.usd for line in lines] == pytest.approx([*boots.values(), 0.2])
    assert [(line.session, line.energy_j, line.units) for line in lines][-1] == (last.id, 0.0, 0)
    others = [replace(one, study="t") if one.id == 1 else one for one in sessions]
    assert len(bill("t", others, [], labels({})).lines) == 1  # who came first has paid for it
    assert len(bill("s", others, [], labels({})).lines) == len(boots) - 1


def test_a_study_without_workers_has_an_empty_bill() -> None:
    empty = bill("s", [], [], labels({}))
    assert empty == Bill(())
    assert (empty.usd, empty.seconds, empty.by_label()) == (None, 0, {})


def test_the_account_of_a_store_names_what_came_of_each_trial(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/ledger.db")
    ledger = Ledger(engine)
    session = ledger.open("demo", "cpu", 100.0, RENTED)
    trials = [
        trial(0, 0.5),
        trial(1, 0.7),
        trial(2, 0.9, constraints={"retention": 0.1}),
        trial(3, None, reason="pruned"),
        trial(4, None, state="FAIL"),
        trial(5, None, state="RUNNING"),
        trial(6, None, reason="infeasible"),
    ]
    bookings = [spent(Whose(RunKind.TRIAL, one.number), Activity.TRAIN, 2.0**one.number, session) for one in trials]
    ledger.book(session, bookings, sum(one.us for one in bookings))
    found = account(ledger, StudyView("demo", trials, {}))
    assert {label.value: part.seconds for label, part in found.by_label().items()} == {
        "winner": 2,
        "completed": 1,
        "pruned": 8,
        "infeasible": 4 + 64,
        "failed": 16,
        "unfinished": 32,
    }
    assert found.usd == pytest.approx(0.127)
    assert account(ledger, StudyView("another", trials, {})).lines == ()
    engine.dispose()
