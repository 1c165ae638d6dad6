"""The memory that was foretold, and that was taken."""

from __future__ import annotations

from sweeper.plots.memory import memory
from sweeper.plots.picture import LeftOut, Picture
from sweeper.search.views import StudyView
from sweeper.trial import Reason
from tests.launch.test_tables import trial
from tests.plots.conftest import drawn, inked, line, marks

TRIALS = [
    trial(0, 0.5, took={"vram_peak_gib": 3.0, "vram_predicted_gib": 4.0}),
    trial(1, None, reason=Reason.PRUNER, took={"vram_peak_gib": 4.0, "vram_predicted_gib": 4.0}),
    trial(2, 0.5, took={"vram_peak_gib": 6.0, "vram_predicted_gib": 5.0}),
    trial(3, 0.5),
]


def test_each_trial_lies_beside_the_diagonal_and_the_budget_is_a_line() -> None:
    made = memory(StudyView("demo", TRIALS, {"memory": {"budget_gib": 8.0}}))
    assert isinstance(made, Picture)
    axes = drawn(made)
    assert marks(axes, "complete") == [(4.0, 3.0), (5.0, 6.0)]
    assert marks(axes, "pruned") == [(4.0, 4.0)]
    assert {y for _, y in line(axes, "budget 8 GiB")} == {8.0}
    assert axes.get_xlim() == axes.get_ylim()
    assert made.sentence == (
        "The largest steps of 3 trials took 75% to 120% of what was foretold, 1 of them more than that; the highest "
        "peak was 6 GiB of a budget of 8 GiB."
    )


def test_one_trial_and_a_budget_that_is_far_away() -> None:
    made = memory(StudyView("demo", TRIALS[:1], {"memory": {"budget_gib": 80.0}}))
    assert isinstance(made, Picture)
    assert drawn(made).get_ylim()[1] < 5
    assert "took 75% of what was foretold, none of them more than that" in made.sentence
    assert inked(made)
    running = memory(StudyView("demo", TRIALS[:1], {}))
    assert isinstance(running, Picture)
    assert running.sentence.endswith("the highest peak was 3 GiB.")


def test_without_readings() -> None:
    found = memory(StudyView("demo", TRIALS[3:], {}))
    assert found == LeftOut("memory", "no trial has a forecast of its memory and a reading")
