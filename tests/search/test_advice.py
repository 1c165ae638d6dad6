"""What is said of planted studies: whether the winner is of use, and what to try next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.search.advice import Confused, next_steps, shortfall
from sweeper.search.views import StudyView, TrialView
from tests.launch.test_tables import scored, trial

SPACE = {"rank": 16, "alpha_ratio": 2.0, "learning_rate": 3e-3}  # within studies/demo's


def study(*trials: TrialView, **attributes: Any) -> StudyView:
    return StudyView("demo", list(trials), {"train_rows": 2400, **attributes})


def outcome(difference: float, error: float) -> dict[str, Any]:
    """Of trial 0 on the test split."""
    scores = {"winner": scored(0.5 + difference), "base": scored(0.5)}
    return {"trial": 0, **scores, "against_base": {"difference": difference, "standard_error": error}}


@pytest.mark.parametrize(
    ("difference", "error", "expected"),
    [
        (0.05, 0.02, None),
        (0.039, 0.02, "cannot be told from the untuned base on the test split: accuracy differs by +0.039 ± 0.020"),
        (0.0, 0.0, "cannot be told"),
        (-0.05, 0.02, "worse than the untuned base on the test split, by 0.050 ± 0.020"),
    ],
)
def test_a_winner_within_noise_of_the_base(
    composed: Callable[..., Config], difference: float, error: float, expected: str | None
) -> None:
    seen = study(trial(0, 0.8), test=outcome(difference, error))
    said = shortfall(seen, composed("study=demo"))
    assert said is None if expected is None else expected in (said or "")


def test_where_less_is_better_the_base_must_be_above(composed: Callable[..., Config]) -> None:
    config = composed("study=demo")
    less = config.model_copy(update={"objective": config.objective.model_copy(update={"direction": "minimize"})})
    seen = study(trial(0, 0.4, is_minimized=True), test=outcome(-0.1, 0.02))
    assert shortfall(seen, less) is None
    assert "worse" in (shortfall(study(trial(0, 0.4, is_minimized=True), test=outcome(0.1, 0.02)), less) or "")


def test_an_old_study_has_the_errors_of_both_and_one_without_errors_none(composed: Callable[..., Config]) -> None:
    config, test = composed("study=demo"), outcome(0.05, 0.0)
    del test["against_base"]
    assert "0.050 ± 0.028" in (shortfall(study(trial(0, 0.8), test=test), config) or "")
    bare = {**test, "winner": {"accuracy": 0.5}, "base": {"accuracy": 0.5}}
    assert shortfall(study(trial(0, 0.8), test=bare), config) is None
    assert shortfall(study(trial(0, 0.8)), config) is None  # not scored yet
    assert shortfall(study(trial(0, 0.8), trial(1, 0.9), test=test), config) is None  # another's


def test_no_winner_is_said_with_why(composed: Callable[..., Config]) -> None:
    config = composed("study=demo")
    assert "No trial is complete (1 pruned)" in (shortfall(study(trial(0, None)), config) or "")
    broken = [trial(0, 0.9, constraints={"retention": 0.3}), trial(1, 0.8, constraints={"retention": 0.05})]
    assert "None of the 2 complete trials keeps to" in (shortfall(study(*broken), config) or "")
    assert "Trial 1 has accuracy 0.800, but its retention is 0.05 above its limit" in " ".join(
        next_steps(study(*broken), config)
    )


def test_where_none_is_complete_what_ended_them_says_what_to_try(composed: Callable[..., Config]) -> None:
    ended = [trial(0, None, reason="wrecked"), trial(1, None, reason="pruner"), trial(2, None, reason="wrecked")]
    steps = next_steps(study(*ended), composed("study=demo"))
    assert steps[0].startswith("2 trials ended as wrecked: lower learning rates or ranks keep more of the base")
    assert steps[1] == "1 trial ended as pruner: pruner=none trains all of them to their end (another study.name)."
    assert "ended as" not in " ".join(next_steps(study(*ended, trial(3, 0.5)), composed("study=demo")))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SPACE, None),
        ({**SPACE, "rank": 64}, "best rank is 64, at the upper end of search.space.rank: try higher"),
        ({**SPACE, "rank": 4}, "best rank is 4, at the lower end of search.space.rank: try lower"),
        ({**SPACE, "alpha_ratio": 1.0}, None),  # of two choices each is an end
        ({**SPACE, "learning_rate": 2.6e-2}, "learning_rate is 0.026, at the upper end"),
        ({**SPACE, "learning_rate": 3.5e-4}, "learning_rate is 0.00035, at the lower end"),
        ({**SPACE, "learning_rate": 1.0e-3}, None),  # 0.03 of the way, but not on the logarithmic scale
    ],
)
def test_a_best_value_at_an_end_of_its_range(
    composed: Callable[..., Config], params: dict[str, Any], expected: str | None
) -> None:
    said = next_steps(study(trial(0, 0.8, params=params)), composed("study=demo"))
    assert said == [] if expected is None else expected in said[0]
    assert len(said) == (expected is not None)


def test_near_misses_training_that_still_gained_confusions_and_few_rows(composed: Callable[..., Config]) -> None:
    config, best = composed("study=demo"), trial(0, 0.8, params=SPACE)
    near, far = (trial(1, 0.9, constraints={"retention": excess}) for excess in (0.01, 0.2))
    assert "Trial 1 has accuracy 0.900, but its retention is 0.01" in next_steps(study(best, near), config)[0]
    assert next_steps(study(best, far), config) == []
    assert next_steps(study(best, trial(1, 0.7, constraints={"retention": 0.01})), config) == []
    rising = replace(best, evaluations=(0.5, 0.7, 0.8))
    assert "still gained 0.100 accuracy at its last evaluation" in next_steps(study(rising), config)[0]
    for overrides, key in (
        (["train.examples=600"], "train.examples"),
        (["train.examples=null"], "train.epochs"),
        (["train.examples=null", "+search.space.epochs=[1,2]"], "search.space.epochs"),
    ):
        assert (
            f"train longer ({key}, another study.name)"
            in next_steps(study(rising), composed("study=demo", *overrides))[0]
        )
    assert next_steps(study(replace(best, evaluations=(0.5, 0.795, 0.8))), config) == []
    assert next_steps(study(replace(best, evaluations=(0.5, 0.9, 0.8))), config) == []
    assert "There are 300 training rows" in next_steps(study(best, train_rows=300), config)[0]
    [said] = next_steps(study(best), config, [Confused("refund", "x" * 50, 7), Confused("a", "b", 2)])
    assert "Wrong rows are mostly `refund` for `(a text of 50 characters)` (7), the right label first" in said
    assert "`a`" not in said


def test_a_learning_curve_says_more_of_the_rows_than_their_number(composed: Callable[..., Config]) -> None:
    config = composed("study=demo")
    few = study(trial(0, 0.5, params=SPACE), train_rows=90)
    assert any("There are 90 training rows, which is few" in step for step in next_steps(few, config))
    curve = {"twice": {"gain": 0.03}, "sentences": ["Twice the rows would buy 3.0 points.", "And more."]}
    steps = next_steps(replace(few, attributes={**few.attributes, "learning_curve": curve}), config)
    assert "Twice the rows would buy 3.0 points." in steps
    assert not any("There are 90 training rows" in step for step in steps)
