"""What is forgotten against what is learned."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.plots.picture import LeftOut, Picture
from sweeper.plots.retention import retention
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason
from tests.launch.test_tables import scored, trial
from tests.plots.conftest import drawn, inked, line, marks, words

KNOWN = {"constrains": "accuracy", "tolerance": 0.05, "sample": {"tolerance": 0.08}}


@pytest.fixture
def config(composed_once: Any) -> Config:
    return composed_once("study=demo")


def one(number: int, value: float | None, lost: float, whole: float | None = None, **changes: Any) -> TrialView:
    metrics = {**scored(0.2 if value is None else value), "retention/drop": lost, "retention/drop_se": 0.01}
    if whole is not None:
        metrics |= {"retention/full_drop": whole, "retention/full_drop_se": 0.004}
    over = whole - 0.05 if whole is not None else lost - 0.08
    if "curve" in changes:
        over = changes["curve"][-1]["retention/drop"] - 0.08
    return trial(number, value, metrics=metrics, constraints={"retention": over}, params={"rank": number}, **changes)


TRIALS = [
    one(0, 0.8, 0.06, whole=0.03),
    one(1, 0.9, 0.2),
    one(2, 0.5, -0.02),
    # Its best evaluation was before the one that it was stopped at.
    one(
        3,
        None,
        0.01,
        reason=Reason.WRECKED,
        curve=({"accuracy": 0.3, "retention/drop": 0.5, "retention/drop_se": 0.01},),
    ),
    trial(4, 0.7),  # nothing was measured of it
]


def test_who_forgets_too_much_is_ringed_and_the_tolerance_is_a_line(config: Config) -> None:
    made = retention(StudyView("demo", TRIALS, {"retention": KNOWN}), config)
    assert isinstance(made, Picture)
    axes = drawn(made)
    assert marks(axes, "winner, trial 0") == [(0.8, 0.03)]  # by the whole suite, where it was held to that
    assert marks(axes, "forgets too much") == [(0.9, 0.2), (0.3, 0.5)]
    assert marks(axes, "complete") == [(0.8, 0.03), (0.5, -0.02)]
    assert marks(axes, "wrecked the base") == [(0.3, 0.5)]
    assert {y for _, y in line(axes, "tolerated: 0.05")} == {0.05}
    assert {y for _, y in line(axes, "of what was measured on a sample")} == {0.08}
    assert "share of answers lost" in words(made)
    assert made.sentence == (
        "2 of 4 trials forget more than is tolerated; the winner, trial 0, loses 0.030 ± 0.004, where 0.050 "
        "is tolerated."
    )


def test_what_was_gained_is_no_loss(config: Config) -> None:
    known = {"constrains": "perplexity", "tolerance": 0.5, "sample": {"tolerance": 0.5}}
    made = retention(StudyView("demo", [TRIALS[2]], {"retention": known}), config)
    assert isinstance(made, Picture)
    assert "the winner, trial 2, loses nothing (-0.020 ± 0.010), where 0.500 is tolerated" in made.sentence
    assert "share of likelihood lost" in words(made)
    assert inked(made)


def test_where_nothing_is_measured(config: Config) -> None:
    nothing = LeftOut("retention", "nothing of the base is held to a tolerance")
    assert retention(StudyView("demo", TRIALS, {}), config) == nothing
    assert retention(StudyView("demo", TRIALS, {"retention": {"constrains": None}}), config) == nothing
    early = retention(StudyView("demo", [TRIALS[-1]], {"retention": KNOWN}), config)
    assert early == LeftOut("retention", "no trial has been held against the base yet")
