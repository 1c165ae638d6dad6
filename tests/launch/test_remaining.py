from __future__ import annotations

import pytest

from sweeper.launching.remaining import Pace, Spent, about


def test_nothing_is_known_before_a_trial_has_ended_and_this_session_has_worked() -> None:
    pace = Pace()
    assert pace.left_s([], 3, 0.0) is None
    pace.begin(100.0)
    pace.work(0.5, 110.0)
    assert pace.left_s([0.5], 3, 110.0) is None
    resumed = Pace({0: 1.0})
    assert resumed.left_s([], 3, 0.0) is None
    resumed.begin(100.0)
    assert resumed.left_s([0.5], 3, 100.0) is None
    resumed.work(0.1, 105.0)
    assert resumed.left_s([0.6], 1, 105.0) == pytest.approx((0.4 + 1.0) * 50)


def test_trials_that_are_stopped_early_make_the_rest_shorter() -> None:
    pace = Pace({0: 1.0, 1: 0.25, 2: 0.25})
    pace.begin(0.0)
    pace.work(1.5, 15.0)
    assert pace.left_s([], 2, 15.0) == pytest.approx(2 * 0.5 * 10)
    # One in flight is taken to come to its end, and so counts as a whole one in what is usual.
    assert pace.left_s([0.5], 2, 15.0) == pytest.approx((0.5 + 2 * 2.5 / 4) * 10)


def test_time_that_has_passed_since_the_latest_step_is_over() -> None:
    pace = Pace({0: 1.0})
    pace.begin(0.0)
    pace.work(1.0, 10.0)
    assert (pace.left_s([], 2, 14.0), pace.left_s([], 2, 99.0)) == (16.0, 0.0)


def test_the_first_limit_that_is_reached_counts() -> None:
    spent = Spent(time_s=100.0, usd=1.0, device_s=1000.0, usd_per_s=0.01)
    assert spent.left_s(None, None, 100.0) is None
    assert spent.left_s(1.5, None, 110.0) == pytest.approx(40.0)
    assert spent.left_s(1.5, 1020.0, 110.0) == pytest.approx(10.0)
    assert spent.left_s(0.5, 1020.0, 110.0) == 0.0
    assert Spent(100.0, None, 1000.0, None).left_s(1.0, None, 100.0) is None  # it has no price


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (5, "less than a minute"),
        (61, "about 1 min"),
        (725, "about 12 min"),
        (2 * 3600 + 14 * 60, "about 2 h 10 min"),
        (5 * 3600 - 60, "about 5 h"),
        (15.4 * 3600, "about 15 h"),
        (50 * 3600, "about 2 days"),
    ],
)
def test_it_is_said_as_roughly_as_it_is_known(seconds: float, words: str) -> None:
    assert about(seconds) == words
