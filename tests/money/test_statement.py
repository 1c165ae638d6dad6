from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from sqlalchemy import create_engine

from sweeper.money.account import beside_session, statement, sums, trial_cost
from sweeper.money.bill import Label
from sweeper.money.booking import STUDY, Activity, Booking, Whose
from sweeper.money.ledger import has_ledger
from sweeper.money.price import Price
from sweeper.money.statement import Statement, percent, sum_in_words
from sweeper.trial import RunKind
from tests.money.booked import BOOKED_S, FIRST, LINES, OPEN_S, PRICE, SETUP_S, STARTED_S, book, ledger_of, seen


def read(price: Price | None = PRICE) -> Statement:
    engine, _ = ledger_of(price, "demo")
    return statement(engine, seen(), price)


def test_every_dollar_by_what_came_of_it() -> None:
    found = read()
    labels = {label: (part.seconds, part.usd) for label, part in found.bill.by_label().items()}
    assert labels == {
        Label.WINNER: (25.0, pytest.approx(0.025)),
        Label.COMPLETED: (12.0, pytest.approx(0.012)),
        Label.PRUNED: (10.0, pytest.approx(0.010)),
        Label.UNFINISHED: (4.0, pytest.approx(0.004)),
        Label.CONFIRMATION: (15.0, pytest.approx(0.015)),
        Label.OVERHEAD: (33.0, pytest.approx(0.033)),
        Label.LOST: (5.0, pytest.approx(0.005)),
    }
    assert (found.bill.seconds, found.bill.usd) == (104.0, pytest.approx(0.104))
    assert found.useful_share == pytest.approx(52 / 104)
    assert found.sentence() == (
        "$0.104 in 0.029 device hours: 24% winner, 12% other complete trials, 14% dead ends, 4% unfinished trials, "
        "14% confirmation, 32% overhead"
    )


def test_the_parts_of_each_view_add_up_to_the_sum_of_the_sessions() -> None:
    found = read().as_dict()
    for parts in (found["labels"].values(), found["activities"].values(), found["sessions"]):
        assert sum(part["seconds"] for part in parts) == pytest.approx(104.0)
        assert sum(part["usd"] for part in parts) == pytest.approx(found["usd"])
    assert [(one["seconds"], one["is_ended"], one["lost_s"], one["in_progress_s"]) for one in found["sessions"]] == [
        (100.0, True, 5.0, 0.0),
        (4.0, False, 0.0, OPEN_S),
    ]
    assert found["in_progress"] == {"usd": pytest.approx(0.002), "seconds": OPEN_S}  # beside the sum, not in it
    assert found["activities"]["train"]["seconds"] == 55.0


def test_the_document() -> None:
    """Every name that `sweeper cost --json` has: scripts read them."""
    found = read().as_dict()
    activities, trials, sessions = found.pop("activities"), found.pop("trials"), found.pop("sessions")
    labels = found.pop("labels")
    assert found == {
        "study": "demo",
        "usd": pytest.approx(0.104),
        "seconds": 104.0,
        "unpriced_s": 0.0,
        "energy_j": 0.0,
        "usd_energy": None,
        "price": "$3.6 an hour (auto, on demand; nobody, 2026-11-01)",
        "useful_share": pytest.approx(0.5),
        "in_progress": {"usd": pytest.approx(0.002), "seconds": OPEN_S},
        "one_process_each": {
            "is_estimate": True,
            "trials": 4,
            "setup_s": SETUP_S,
            "alone_s": 57.0,
            "seconds": 81.0,
            "packed_s": 71.0,
            "factor": pytest.approx(81 / 71),
            "usd": pytest.approx(0.081),
            "packed_usd": pytest.approx(0.071),
        },
    }
    assert sessions[1] == {
        "session": 2,
        "started": "2026-09-21T14:16:40+00:00",
        "device": "cpu",
        "price": "$3.6 an hour (auto, on demand; nobody, 2026-11-01)",
        "usd": pytest.approx(0.004),
        "seconds": 4.0,
        "is_ended": False,
        "lost_s": 0.0,
        "in_progress_s": OPEN_S,
    }
    assert trials[0] == {
        "number": 0,
        "state": "COMPLETE",
        "label": "winner",
        "params": seen().trials[0].params,
        "usd": pytest.approx(0.025),
        "seconds": 25.0,
        "unpriced_s": 0.0,
        "train_s": 20.0,
        "eval_s": 5.0,
        "usd_energy": None,
        "solo_s": 30.0,
        "usd_solo": pytest.approx(0.03),
    }
    assert activities["load"] == {"usd": pytest.approx(0.01), "seconds": 10.0, "share": pytest.approx(10 / 104)}
    assert labels["lost"] == {"usd": pytest.approx(0.005), "seconds": 5.0, "share": pytest.approx(5 / 104)}


def test_each_trial_beside_what_it_would_take_alone() -> None:
    found = read()
    trials = {trial.number: (trial.train_s, trial.eval_s, trial.bill.usd, trial.solo_usd) for trial in found.trials}
    assert trials[0] == (20.0, 5.0, pytest.approx(0.025), pytest.approx(0.030))
    assert trials[4] == (0, 0, None, None)  # a forecast ended it: nothing was booked, and that is no zero dollars
    assert trials[5] == (4.0, 0, pytest.approx(0.004), None)
    labels = [trial.label.value for trial in found.trials]
    assert labels == ["winner", "completed", "pruned", "pruned", "infeasible", "unfinished"]


def test_one_process_each() -> None:
    """Four trials were trained: 57 s alone and 6 s of set-up each; the pack took 47 s, and shared 24 s."""
    found = read().as_dict()["one_process_each"]
    assert (found["seconds"], found["packed_s"], found["factor"]) == (81.0, 71.0, pytest.approx(81 / 71))
    assert (found["usd"], found["packed_usd"]) == (pytest.approx(0.081), pytest.approx(0.071))


def test_without_a_price_there_are_seconds_and_no_zero() -> None:
    found = read(None)
    said = found.as_dict()
    assert (said["usd"], said["price"], said["unpriced_s"]) == (None, None, 104.0)
    assert all(part["usd"] is None for part in [*said["labels"].values(), *said["sessions"], *said["trials"]])
    assert said["one_process_each"]["usd"] is None
    assert said["labels"]["winner"]["share"] == pytest.approx(25 / 104)
    assert found.sentence().startswith("0.029 device hours, without a price: 24% winner")


def test_what_came_before_a_price_is_told_apart_and_shares_are_of_seconds() -> None:
    engine, ledger = ledger_of(None, "demo")
    book(ledger, "demo", PRICE, {(STUDY, Activity.LOAD): 52.0}, STARTED_S + 300.0)
    found = statement(engine, seen(), PRICE)
    assert (found.bill.usd, found.bill.unpriced_s) == (pytest.approx(0.052), BOOKED_S)
    assert found.bill.share(found.bill.of(Label.OVERHEAD)) == pytest.approx((33 + 52) / 156)
    assert sum_in_words(found.bill) == "$0.0520 in 0.043 device hours, 104 s of them without a price"


def test_what_is_free_costs_nothing_and_is_shared_by_seconds() -> None:
    found = read(replace(PRICE, usd_per_hour=0.0))
    assert (found.bill.usd, found.bill.unpriced_s) == (0.0, 0)
    assert found.bill.share(found.bill.of(Label.WINNER)) == pytest.approx(25 / 104)
    assert found.sentence().startswith("$0.00 in 0.029 device hours: 24% winner")


def test_the_table_has_every_line() -> None:
    rows = list(csv.DictReader(io.StringIO(read().csv())))
    assert len(rows) == LINES
    assert sum(float(row["usd"]) for row in rows) == pytest.approx(0.104)
    [trained] = [row for row in rows if (row["run"], row["number"], row["activity"]) == ("trial", "1", "train")]
    assert (trained["seconds"], trained["session"], trained["units"]) == ("10.0", "1", "0")
    [lost] = [row for row in rows if row["label"] == "lost"]
    assert (lost["run"], lost["number"], lost["activity"], lost["energy_usd"]) == ("study", "", "lost", "")
    assert {row["usd"] for row in csv.DictReader(io.StringIO(read(None).csv()))} == {""}


def test_booting_is_in_the_bill_and_in_the_table() -> None:
    found = read(replace(PRICE, boot_s=60.0))
    assert found.by_activity()["boot"].usd == pytest.approx(0.06)
    assert found.bill.usd == pytest.approx(0.164)
    assert "study,,overhead,boot," in found.csv()
    assert (found.bill.seconds, found.bill.worked_s) == (164.0, 104.0)


def test_electricity_ahead_is_that_of_the_seconds_that_drew_it() -> None:
    """And none of booting, which nothing measures."""
    engine, ledger = ledger_of(None)
    price = replace(PRICE, tariff_usd_per_kwh=0.36, boot_s=900.0)
    session = ledger.open("demo", "cpu", STARTED_S, price)
    ledger.book(session, [Booking(session, STUDY, Activity.LOAD, 100_000_000, energy_mj=10**8)], 100_000_000)
    found = beside_session(ledger, "demo", session, is_priced=True)
    assert found.usd_per_s == pytest.approx(0.001)
    assert found.usd_per_s_ahead == pytest.approx(0.001 + 1000 * 0.36 / 3.6e6)  # a kilowatt
    engine.dispose()


def test_what_a_study_has_taken_beside_a_session() -> None:
    """What others have booked and what they are at, without the session's own seconds, but with its electricity."""
    engine, ledger = ledger_of(replace(PRICE, tariff_usd_per_kwh=0.36), "demo", "other")
    own = ledger.open("demo", "cpu", STARTED_S + 300.0, replace(PRICE, tariff_usd_per_kwh=0.36))
    ledger.book(own, [Booking(own, STUDY, Activity.LOAD, 10_000_000, energy_mj=10**7)], 11_000_000)
    electricity = 0.36 * 1e4 / 3.6e6
    found = beside_session(ledger, "demo", own, is_priced=True)
    assert found.spent.seconds == pytest.approx(BOOKED_S + OPEN_S)
    assert found.spent.usd == pytest.approx((BOOKED_S + OPEN_S) * 0.001 + electricity)
    assert found.usd_per_s == pytest.approx(0.001)
    assert found.usd_per_s_ahead == pytest.approx(0.001 + electricity / (BOOKED_S + 10))
    without = beside_session(ledger, "demo", own, is_priced=False)
    assert without.spent.usd is None
    assert without.spent.seconds == pytest.approx(BOOKED_S + OPEN_S)
    engine.dispose()


def test_sessions_without_a_price_add_their_seconds_alone() -> None:
    engine, ledger = ledger_of(None, "demo")
    own = ledger.open("demo", "cpu", STARTED_S + 300.0, PRICE)
    found = beside_session(ledger, "demo", own, is_priced=True)
    assert (found.spent.seconds, found.spent.usd) == (pytest.approx(BOOKED_S + OPEN_S), 0.0)
    ledger.book(own, [Booking(own, STUDY, Activity.LOAD, 10_000_000)], 10_000_000)
    found = beside_session(ledger, "demo", own, is_priced=True)
    assert (found.spent.seconds, found.spent.usd) == (pytest.approx(BOOKED_S + OPEN_S), pytest.approx(0.0))
    unpriced = ledger.open("demo", "cpu", STARTED_S + 300.0, None)
    assert beside_session(ledger, "demo", unpriced, is_priced=False).usd_per_s_ahead is None
    engine.dispose()


def test_a_trial_alone_costs_what_it_costs_among_all() -> None:
    engine, ledger = ledger_of(PRICE, "demo", "other")
    for trial, among_all in zip(seen().trials, statement(engine, seen(), PRICE).trials, strict=True):
        alone = trial_cost(ledger, "demo", trial, PRICE)
        for cost in (alone, among_all):
            assert cost.number == trial.number
        assert (alone.train_s, alone.eval_s, alone.bill.usd) == (
            among_all.train_s,
            among_all.eval_s,
            among_all.bill.usd,
        )
        assert (alone.solo_s, alone.solo_usd, alone.params) == (among_all.solo_s, among_all.solo_usd, trial.params)
    assert list(statement(engine, seen(), PRICE).in_progress) == [2]  # and not what the other study is at
    labels = [trial_cost(ledger, "demo", trial, None).label.value for trial in seen().trials]
    assert labels == ["completed", "completed", "pruned", "pruned", "infeasible", "unfinished"]
    engine.dispose()


def test_alone_a_trial_draws_what_it_drew_on_the_mean() -> None:
    engine, ledger = ledger_of(None)
    price = replace(PRICE, tariff_usd_per_kwh=0.36)
    session = ledger.open("demo", "cpu", STARTED_S, price)
    trained = Booking(session, Whose(RunKind.TRIAL, 0), Activity.TRAIN, 20_000_000, energy_mj=10**7)  # 500 W
    ledger.book(session, [trained], 20_000_000)
    [winner, *others] = statement(engine, seen(), price).trials
    assert winner.solo_usd == pytest.approx(30 * 0.001 + 30 * 500 * 0.36 / 3.6e6)
    assert others[0].solo_usd == pytest.approx(15 * 0.001)  # nothing was measured of it
    engine.dispose()


def test_shares_are_of_dollars_where_all_has_a_price() -> None:
    engine, ledger = ledger_of(PRICE, "demo")
    book(ledger, "demo", replace(PRICE, usd_per_hour=36.0), {(STUDY, Activity.LOAD): 10.0}, STARTED_S + 300.0)
    found = statement(engine, seen(), PRICE).bill
    assert found.share(found.of(Label.OVERHEAD)) == pytest.approx((0.033 + 0.1) / 0.204)
    engine.dispose()


def test_reading_makes_no_tables() -> None:
    engine = create_engine("sqlite://")
    found = statement(engine, seen(), None)
    assert (found.is_empty, found.bill.usd, found.as_dict()["sessions"]) == (True, None, [])
    assert sums(engine) == {}
    assert not has_ledger(engine)


def test_the_sums_of_all_studies_are_those_of_each() -> None:
    """Three on the same machine at the same time, which two pay for as a whole."""
    engine, ledger = ledger_of(replace(PRICE, is_per_machine=True, boot_s=30.0), "one", "two")
    book(ledger, "three", None, FIRST, STARTED_S)
    found = sums(engine)
    for name in ("one", "two", "three"):
        own = statement(engine, seen(name), None).bill
        assert found[name].usd == (None if own.usd is None else pytest.approx(own.usd))
        assert found[name].seconds == pytest.approx(own.seconds)
    assert found["two"].usd == pytest.approx(0.1 / 3 + 0.004 / 2)  # it shares each moment with whoever is there
    assert found["one"].usd == pytest.approx(0.1 / 3 + 0.004 / 2 + 0.03)
    assert found["three"].usd is None


def test_shares_in_words() -> None:
    assert [percent(share) for share in (0.0, 0.001, 0.234, 1.0)] == ["0%", "<1%", "23%", "100%"]


def test_sums_in_words() -> None:
    for seconds, words in {
        0: "0.0 device seconds, without a price",
        35.9: "35.9 device seconds, without a price",
        36: "0.01 device hours, without a price",
        35_990: "10 device hours, without a price",
        36_000: "10.0 device hours, without a price",
        4_500_000: "1,250.0 device hours, without a price",
    }.items():
        engine, ledger = ledger_of(None)
        if seconds:
            book(ledger, "demo", None, {(STUDY, Activity.LOAD): seconds}, STARTED_S)
        assert sum_in_words(statement(engine, seen(), None).bill) == words
        engine.dispose()


def test_what_was_not_measured_leaves_no_estimate() -> None:
    engine, _ = ledger_of(PRICE, "demo")
    unknown = [replace(trial, solo_s=None) for trial in seen().trials]
    assert statement(engine, replace(seen(), trials=unknown), PRICE).apart is None
    assert statement(engine, replace(seen(), attributes={}), PRICE).apart is None
