"""A learning curve in numbers and in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from sweeper.learning.curve import LearningCurve, Point, counts
from sweeper.learning.law import Law

ROWS = (288, 600, 1200, 2400)
RISING = tuple(float(Law(0.98, 0.1, 0.5).at(rows / 2400)) for rows in ROWS)


def curve(values: Sequence[float] = RISING, error: float = 0.004, **changes: Any) -> LearningCurve:
    points = tuple(Point(rows, (value,), error) for rows, value in zip(ROWS, values, strict=True))
    known: dict[str, Any] = {
        "metric": "accuracy",
        "trial": 7,
        "params": {"rank": 8},
        "is_minimized": False,
        "is_share": True,
        "examples": 4800,
        "seeds": (3,),
        "points": points,
    }
    return LearningCurve(**{**known, **changes})


def test_a_curve_that_rises_says_how_much() -> None:
    [said] = curve().sentences()
    assert said.startswith("Twice the rows (4,800) would buy 2.9 points of accuracy: between ")
    assert said.endswith(" (90%).")


def test_a_curve_that_is_flat_within_noise_says_so() -> None:
    [said] = curve([0.80, 0.81, 0.80, 0.805], error=0.01).sentences()
    assert said.startswith("Twice the rows (4,800) would buy next to nothing: at most 0.")
    assert said.endswith("less than one standard error of a score here (1.0). The curve is flat within noise.")


def test_a_curve_that_hardly_tells_says_so() -> None:
    [said] = curve([0.70, 0.78, 0.80, 0.84], error=0.03).sentences()
    assert said.startswith("These points hardly tell what twice the rows would buy: between 0.")


def test_a_steep_begin_is_no_law_and_is_said() -> None:
    said = curve([0.10, 0.12, 0.70, 0.85]).sentences()
    assert "standard errors off a power law" in said[1]


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        (1200, "Each training saw 1,200 of the 2,400 rows: longer training"),
        (2400, "Each training saw 2,400 examples: with twice the rows it must be longer"),
    ],
)
def test_rows_that_no_training_sees_are_said(examples: int, expected: str) -> None:
    found = curve(examples=examples)
    assert found.sentences()[1].startswith(expected)
    assert f"Twice the rows ({2 * examples:,})" in found.sentences()[0]


def test_a_cost_falls_and_has_its_own_unit() -> None:
    found = curve([8.0, 7.0, 6.0, 5.0], error=0.05, metric="cost", is_minimized=True, is_share=False)
    assert found.forecast is not None
    assert found.forecast.gain > 0.5
    assert " of cost (less is better): between 0." in found.sentences()[0]
    assert "hardly" not in found.sentences()[0]


def test_without_errors_or_points_nothing_is_said_of_more_rows() -> None:
    assert "accuracy has no standard error; --seeds 3 measures one" in curve(error=0.0).sentences()[0]
    assert curve(error=0.0).as_dict()["twice"] is None
    few = curve(examples=600)
    assert "it takes 3 points of different rows, but trainings of 600 examples see 288, 600" in few.sentences()[0]


def test_seeds_have_an_error_beside_that_of_the_rows() -> None:
    assert Point(10, (0.5, 0.7), 0.0).error == pytest.approx(0.1)
    assert Point(10, (0.5, 0.7), 0.1).error == pytest.approx(0.02**0.5)
    assert Point(10, (0.5, 0.7), 0.1).value == pytest.approx(0.6)
    assert Point(10, (0.5,), 0.1).error == 0.1


def test_a_perfect_score_does_not_count_for_ever() -> None:
    points = (*curve().points[:3], Point(2400, (1.0,), 0.0))
    found = curve(points=points).forecast
    assert found is not None
    assert found.law.at(1.0) < 1.0


def test_what_a_study_keeps_is_the_curve_again() -> None:
    kept = json.loads(json.dumps(curve().as_dict()))
    assert LearningCurve.from_dict(kept) == curve()
    assert kept["twice"]["low"] < kept["twice"]["gain"] < kept["twice"]["high"]
    assert kept["sentences"] == curve().sentences()


def test_fractions_are_numbers_of_rows() -> None:
    assert counts(2400, (0.12, 0.25, 0.5, 1.0)) == [288, 600, 1200, 2400]
    assert counts(3, (0.12, 0.25, 0.5, 1.0)) == [1, 2, 3]
