"""The picture of what two parameters do together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sweeper.config.schema import Config
from sweeper.plots.interaction_picture import interaction
from sweeper.plots.picture import LeftOut, Picture
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason
from tests.launch.test_tables import scored, trial
from tests.plots.conftest import drawn, inked, marks, words


@pytest.fixture
def config(composed_once: Any) -> Config:
    return composed_once("study=demo")


def one(number: int, value: float | None, rank: int, rate: float, **changes: Any) -> TrialView:
    return trial(number, value, params={"rank": rank, "learning_rate": rate}, **changes)


SCATTERED = StudyView(
    "demo",
    [
        one(0, 0.34, 8, 1e-3),
        one(1, 0.81, 64, 2e-3),
        one(2, None, 64, 3e-3, reason=Reason.PRUNER, metrics=scored(0.2)),
        one(3, None, 8, 2e-2, reason=Reason.DIVERGED),
        one(4, 0.95, 64, 4e-3, constraints={"retention": 0.1}),
        one(5, None, 8, 5e-3, state="RUNNING"),
        one(6, 0.81, 64, 2e-3, same_as=1),
    ],
    {},
)


def test_every_trial_lies_where_its_parameters_are_and_is_marked_by_what_became_of_it(config: Config) -> None:
    made = interaction(SCATTERED, config, [])
    axes = drawn(made)
    assert isinstance(made, Picture)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["8", "64"]
    assert marks(axes, "complete") == [(1e-3, 0.0), (2e-3, 1.0)]
    assert marks(axes, "pruned") == [(3e-3, 1.0)]
    assert marks(axes, "diverged") == [(2e-2, 0.0)]
    assert marks(axes, "breaks a constraint") == [(4e-3, 1.0)]
    assert marks(axes, "winner, trial 1") == [(2e-3, 1.0)]
    assert axes.get_xscale() == "log"
    assert made.sentence == (
        "The winner scores 0.81 ± 0.02 at rank 64 and learning_rate 0.002; rank 8 reaches 0.34 ± 0.02 at best "
        "(learning_rate 0.001); 2 of 5 trials were stopped or diverged."
    )


def test_where_values_recur_they_are_lines_and_a_table(config: Config) -> None:
    grid = [one(2 * place + high, 0.3 + 0.4 * high + place / 10, 8 + 56 * high, rate) for place, rate in
            enumerate((1e-3, 2e-3)) for high in (0, 1)]  # fmt: skip
    made = interaction(StudyView("demo", grid, {}), config, [])
    assert isinstance(made, Picture)
    lines = [container.lines[0].get_xydata().tolist() for container in drawn(made).containers]
    assert np.allclose(lines, [[[1e-3, 0.3], [2e-3, 0.4]], [[1e-3, 0.7], [2e-3, 0.8]]])
    said = words(made)
    assert "0.8\n±0.02" in said
    assert "64" in said.split("\n")
    assert made.sentence.startswith(
        "The winner scores 0.8 ± 0.02 at rank 64 and learning_rate 0.002; rank 8 reaches 0.4"
    )


def test_other_axes_are_the_two_that_matter_most(config: Config) -> None:
    trials = [
        trial(
            n,
            0.5 + n / 100,
            params={"rank": 8, "dropout": n / 10, "schedule": ("linear", "cosine")[n % 2], "epochs": n},
        )
        for n in range(4)
    ]
    made = interaction(StudyView("demo", trials, {}), config, ["schedule", "dropout"])
    assert isinstance(made, Picture)
    assert made.title == "accuracy by dropout and schedule"
    assert inked(made)
    alone = interaction(StudyView("demo", [one(0, 0.5, 8, 1e-3), one(1, 0.6, 8, 2e-3)], {}), config, [])
    assert alone == LeftOut("interaction", "two parameters must have varied, but learning_rate has")
    none = interaction(
        StudyView("demo", [one(0, None, 8, 1e-3, reason=Reason.PRUNER), one(1, None, 4, 2e-3)], {}), config, []
    )
    assert isinstance(none, LeftOut)
    assert "of complete trials, but there is none" in none.reason


def test_many_trials_of_one_row_lie_beside_each_other(config: Config) -> None:
    many = [one(n, n / 200, 8 * (1 + n % 2), 1e-3 * (1 + n // 2 % 40)) for n in range(200)]
    axes = drawn(interaction(StudyView("demo", many, {}), config, []))
    found = marks(axes, "complete")
    assert len(set(found)) == 200
    assert all(abs(y - n % 2) < 0.35 for n, (_, y) in enumerate(found))  # and each in its row
