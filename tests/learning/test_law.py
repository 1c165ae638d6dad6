"""The law of a learning curve, on curves whose law is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sweeper.learning import law
from sweeper.learning.law import Law, forecast

ROWS = np.array([288.0, 600.0, 1200.0, 2400.0])
SMALL = np.full(4, 1e-3)


@pytest.mark.parametrize("true", [Law(0.95, 0.1, 0.3), Law(0.9, 0.05, 1.0), Law(1.0, 0.2, 0.2)])
def test_a_known_law_is_recovered(true: Law) -> None:
    found = forecast(ROWS, true.at(ROWS / 2400), SMALL, best_possible=1.0)
    assert found.law.limit == pytest.approx(true.limit, abs=0.02)
    assert found.law.exponent == pytest.approx(true.exponent, rel=0.15)
    assert found.gain == pytest.approx(true.at(2.0) - true.at(1.0), abs=5e-4)
    assert found.low <= found.gain <= found.high
    assert found.misfit < 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_metric_may_be_of_any_size_and_have_no_bound(scale: float) -> None:
    """A cost of 8 that falls to 5, as a merit."""
    true = Law(-5.0 * scale, 1.0 * scale, 0.5)
    found = forecast(ROWS, true.at(ROWS / 2400), SMALL * scale)
    assert found.gain == pytest.approx(scale * (1 - 2**-0.5), rel=1e-2)
    assert found.law.limit > true.at(1.0)


def test_no_limit_is_beyond_what_is_possible() -> None:
    merits = np.array([0.70, 0.80, 0.90, 0.995])
    bounded, unbounded = (forecast(ROWS, merits, np.full(4, 0.005), bound) for bound in (1.0, math.inf))
    assert (bounded.draws.limit <= 1.0).all()
    assert bounded.law.at(2.0) < 1.0 < unbounded.law.at(2.0)
    assert bounded.gain < unbounded.gain / 2


def test_a_curve_that_falls_is_flat() -> None:
    found = forecast(ROWS, np.array([0.9, 0.88, 0.86, 0.84]), np.full(4, 0.01))
    assert (found.law.amplitude, found.gain, found.low) == (0.0, 0.0, 0.0)
    assert found.misfit > 1
    assert found.draws.at(2.0).min() >= found.draws.at(1.0).min()


def test_points_that_follow_no_law_widen_the_interval() -> None:
    """A curve that is still in its steep begin has no power law yet."""
    steep, errors = np.array([0.1, 0.12, 0.75, 0.85]), np.full(4, 0.015)
    assert forecast(ROWS, steep, errors).misfit > 3
    wide = forecast(ROWS, steep, errors, best_possible=1.0)
    follows = forecast(ROWS, Law(0.95, 0.1, 0.3).at(ROWS / 2400), errors, best_possible=1.0)
    assert wide.high - wide.low > 2 * (follows.high - follows.low)


def test_exact_points_count_more() -> None:
    merits = np.array([0.5, 0.6, 0.7, 0.60])  # the last one is off
    trusted = forecast(ROWS, merits, np.array([0.01, 0.01, 0.01, 0.01]))
    doubted = forecast(ROWS, merits, np.array([0.01, 0.01, 0.01, 0.20]))
    assert doubted.law.at(1.0) > trusted.law.at(1.0) + 0.05


def test_three_points_leave_nothing_to_judge_the_law_by() -> None:
    assert forecast(ROWS[1:], np.array([0.7, 0.8, 0.85]), np.full(3, 0.01)).misfit == 0.0


def test_the_band_contains_the_curve_and_grows_beyond_the_points() -> None:
    found = forecast(ROWS, Law(0.95, 0.1, 0.3).at(ROWS / 2400), np.full(4, 0.01), best_possible=1.0)
    shares = np.array([0.25, 1.0, 2.0])
    low, high = found.band(shares)
    assert ((low < found.law.at(shares)) & (found.law.at(shares) < high)).all()


@pytest.mark.parametrize("error", [0.005, 0.015])
@pytest.mark.parametrize(
    "true",
    [Law(0.95, 0.1, 0.3), Law(0.9, 0.05, 0.5), Law(0.85, 0.02, 1.0), Law(0.95, 0.15, 0.7), Law(1.0, 0.2, 0.2)],
)
def test_the_interval_covers_the_truth(true: Law, error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nominally 90 %; what is left of the difference is what four points cannot know."""
    monkeypatch.setattr(law, "DRAWS", 200)
    noise = np.random.default_rng(1).normal(scale=error, size=(100, 4))
    gain = true.at(2.0) - true.at(1.0)
    found = [forecast(ROWS, true.at(ROWS / 2400) + draw, np.full(4, error), 1.0) for draw in noise]
    assert sum(one.low <= gain <= one.high for one in found) >= 80
    assert all(math.isfinite(one.high) for one in found)
