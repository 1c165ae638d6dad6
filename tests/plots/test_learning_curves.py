"""The course of every trial."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from matplotlib.collections import LineCollection

from sweeper.config.schema import Config
from sweeper.plots.learning_curves import learning_curves
from sweeper.plots.picture import LeftOut, Picture
from sweeper.search.views import StudyView
from sweeper.trial import Reason
from tests.launch.test_tables import scored, trial
from tests.plots.conftest import course, drawn, inked, line, marks


@pytest.fixture
def config(composed_once: Any) -> Config:
    return composed_once("study=demo")


STUDY = StudyView(
    "demo",
    [
        trial(0, 0.8, curve=course(0.3, 0.8, 0.7)),
        trial(1, 0.6, curve=course(0.2, 0.5, 0.6)),
        trial(2, None, reason=Reason.PRUNER, curve=course(0.15, 0.25)),
        trial(3, None, reason=Reason.DIVERGED, curve=course(0.2, math.nan)),
        trial(4, None, state="FAIL", reason=Reason.DEFECT, curve=course(0.22)),
        trial(5, None, state="RUNNING", curve=course(0.4)),
        trial(6, None, reason=Reason.INFEASIBLE, curve=(), examples_seen=0),
        trial(7, 0.8, same_as=0, curve=course(0.3, 0.8, 0.7)),
    ],
    {"baseline": scored(0.1)},
)


def test_the_winner_is_thick_and_those_that_were_stopped_end_in_a_mark(config: Config) -> None:
    made = learning_curves(STUDY, config)
    assert isinstance(made, Picture)
    axes = drawn(made)
    assert line(axes, "winner, trial 0") == [(100.0, 0.3), (200.0, 0.8), (300.0, 0.7)]
    assert marks(axes, "pruned") == [(200.0, 0.25)]
    assert marks(axes, "diverged") == [(100.0, 0.2)]
    assert marks(axes, "failed") == [(100.0, 0.22)]
    assert marks(axes, "in flight") == [(100.0, 0.4)]
    lines = [found for found in axes.collections if isinstance(found, LineCollection)]
    assert sum(len(found.get_segments()) for found in lines) == 5  # all but the winner, and its repetition
    widths = {round(float(found.get_linewidth()[0]), 2) for found in lines}
    [winner] = [found for found in axes.lines if str(found.get_label()).startswith("winner")]
    assert min(widths) < max(widths) < winner.get_linewidth()
    assert {y for _, y in line(axes, "untuned base")} == {0.1}
    assert made.sentence == (
        "Of 6 trials 2 came to their planned end, 3 were stopped, 1 is in flight; the winner, trial 0, reached 0.8 "
        "after 200 examples, where the middle of the others is 0.6."
    )


def test_without_an_evaluation_there_is_nothing_to_draw(config: Config) -> None:
    assert learning_curves(StudyView("demo", [], {}), config) == LeftOut(
        "learning_curves", "no trial has been evaluated yet"
    )
    running = learning_curves(StudyView("demo", [trial(0, None, state="RUNNING", curve=course(0.4))], {}), config)
    assert isinstance(running, Picture)
    assert running.sentence == "Of 1 trial 0 came to their planned end, 1 is in flight."
    assert inked(running)


def test_a_few_that_are_far_off_do_not_hide_the_others(config: Config) -> None:
    trials = [trial(n, 0.5 + n / 100, curve=course(0.3, 0.5 + n / 100)) for n in range(20)]
    wild = trial(20, None, reason=Reason.DIVERGED, curve=course(0.3, -1e12))
    axes = drawn(learning_curves(StudyView("demo", [*trials, wild], {"baseline": scored(0.1)}), config))
    low, high = axes.get_ylim()
    assert -1.0 < low < 0.1  # the base is seen
    assert 0.69 < high < 2.0


def test_a_thousand_are_a_few_collections(config: Config) -> None:
    many = [trial(n, 0.5 + n / 5000, curve=course(0.3, 0.4, 0.5 + n / 5000)) for n in range(1000)]
    made = learning_curves(StudyView("demo", many, {}), config)
    assert isinstance(made, Picture)
    started = time.process_time()
    assert inked(made)
    assert time.process_time() - started < 3.0
    assert len(drawn(made).collections) < 10
