from __future__ import annotations

from sweeper.money.apart import apart
from sweeper.money.bill import Bill, Label, Line
from sweeper.money.booking import STUDY, Activity, Whose
from sweeper.trial import RunKind

ZERO, ONE = Whose(RunKind.TRIAL, 0), Whose(RunKind.TRIAL, 1)


def line(whose: Whose, activity: Activity | None, seconds: float) -> Line:
    return Line(Label.OVERHEAD, whose, activity, seconds, 0.0, 0, None, None, 1)


PACKED = (line(ZERO, Activity.TRAIN, 10.0), line(ONE, Activity.TRAIN, 6.0), line(STUDY, Activity.LOAD, 4.0))


def test_set_up_is_paid_by_each_and_work_by_its_pace() -> None:
    found = apart(Bill(PACKED), {0: 12.0, 1: 8.0}, setup_s=5.0)
    assert found is not None
    assert (found.seconds, found.packed_s, found.factor) == (30.0, 20.0, 1.5)


def test_packing_may_not_pay() -> None:
    found = apart(Bill(PACKED), {0: 5.0, 1: 3.0}, setup_s=1.0)
    assert found is not None
    assert found.factor == 0.5


def test_what_both_ways_need_once_is_in_neither() -> None:
    both = [
        line(STUDY, Activity.BASELINE, 50.0),
        line(STUDY, Activity.TEST, 50.0),
        line(STUDY, Activity.LOST, 50.0),
        line(STUDY, None, 50.0),
        line(Whose(RunKind.CONFIRMATION, 3), Activity.TRAIN, 50.0),
        line(Whose(RunKind.TRIAL, 2), Activity.TRAIN, 50.0),  # what it takes alone is not known
    ]
    found = apart(Bill((*PACKED, *both)), {0: 12.0, 1: 8.0}, setup_s=5.0)
    assert found is not None
    assert found.packed_s == 20.0


def test_what_was_not_measured_is_not_estimated() -> None:
    assert apart(Bill(PACKED), {0: 12.0}, setup_s=None) is None
    assert apart(Bill(PACKED), {}, setup_s=5.0) is None
    assert apart(Bill(()), {0: 12.0}, setup_s=5.0) is None
