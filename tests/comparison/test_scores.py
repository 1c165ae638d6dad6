"""Differences by hand, and against what the task gives on the same draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sweeper.comparison.paired import Pair, RightWrong
from sweeper.comparison.scores import DRAWS, SEED, Difference, Score, Verdict, from_kept, is_of_kept
from sweeper.data.row import Row
from sweeper.mistakes.kept import Kept
from sweeper.tasks.classification import Classification
from sweeper.tasks.generation import Generation
from sweeper.tasks.resampled import Resampler, difference
from sweeper.tasks.task import Task

LABELS = ["a", "b", "c"]
TRUTH = ["a", "b", "c", "a", "b", "c", "a", "a"]
A = ["a", "b", "a", "a", "c", "c", "b", "b"]
B = ["a", "b", "c", "a", "b", "a", "a", "b"]
ANSWERS = ["the red house", "a blue one", "three words here", "no"]
SAID_A = ["red house", "blue", "three", "yes"]
SAID_B = ["house", "a blue one", "three words here", "no"]


def rows(truth: Sequence[str], is_written: bool) -> list[Row]:
    return [
        Row("text", "" if is_written else one, f"rows:{place}", answers=(one,) if is_written else ())
        for place, one in enumerate(truth)
    ]


def pairs(task: Task, found: list[Row], a: Sequence[str], b: Sequence[str]) -> list[Pair]:
    def kept(row: Row, said: str) -> Kept:
        return Kept(row=row.place, sha256=row.sha256, tokens=4, prediction=said, **task.judged(row, said))

    return [Pair(kept(row, one), kept(row, other)) for row, one, other in zip(found, a, b, strict=True)]


@pytest.mark.parametrize(
    ("metric", "task", "truth", "a", "b"),
    [
        ("accuracy", Classification({label: [ord(label)] for label in LABELS}), TRUTH, A, B),
        ("macro_f1", Classification({label: [ord(label)] for label in LABELS}), TRUTH, A, B),
        ("exact_match", Generation(str, 8, 0), ANSWERS, SAID_A, SAID_B),
        ("token_f1", Generation(str, 8, 0), ANSWERS, SAID_A, SAID_B),
    ],
)
def test_kept_predictions_give_what_the_task_gives(
    metric: str, task: Task, truth: list[str], a: list[str], b: list[str]
) -> None:
    found = rows(truth, isinstance(task, Generation))
    both = pairs(task, found, a, b)
    assert is_of_kept(metric, both)
    assert not is_of_kept("bleu", both)
    resampler = Resampler(task, metric, found, SEED, is_known=True)
    for score, texts in zip(from_kept(metric, both), (a, b), strict=True):
        of_task = task.score(found, texts).as_dict()
        assert score.value == pytest.approx(of_task[metric])
        assert score.error == pytest.approx(of_task[f"{metric}_se"], rel=1e-6)
        assert score.draws == pytest.approx(resampler.score(texts).draws, abs=1e-6)
    one = Difference.of(metric, *from_kept(metric, both), False)
    expected = difference(resampler.score(b).draws, resampler.score(a).draws)
    assert (one.low, one.high) == pytest.approx(tuple(np.percentile(expected, (2.5, 97.5))), abs=1e-6)


def test_the_difference_by_hand() -> None:
    """B has six of eight right, A four: two more."""
    task = Classification({label: [ord(label)] for label in LABELS})
    both = pairs(task, rows(TRUTH, False), A, B)
    one = Difference.of("accuracy", *from_kept("accuracy", both), False, RightWrong.of(both))
    assert (one.a.value, one.b.value, one.value) == (0.5, 0.75, 0.25)
    assert one.a.error == pytest.approx(((6 / 12) * (6 / 12) / 12) ** 0.5)  # two right and two wrong ones added
    assert len(one.a.draws) == DRAWS
    assert one.verdict is Verdict.ALIKE
    assert one.low is not None
    assert one.low < 0


def shifted(by: float) -> tuple[Score, Score]:
    draws = np.random.default_rng(0).normal(0.5, 0.1, DRAWS)
    noise = np.random.default_rng(1).normal(0.0, 0.01, DRAWS)
    return Score(0.5, 0.1, draws), Score(0.5 + by, 0.1, draws + by + noise)


@pytest.mark.parametrize(
    ("by", "is_minimized", "expected"),
    [
        (0.1, False, Verdict.BETTER),
        (-0.1, False, Verdict.WORSE),
        (0.1, True, Verdict.WORSE),
        (-0.1, True, Verdict.BETTER),
        (0.1, None, Verdict.HIGHER),
        (-0.1, None, Verdict.LOWER),
        (0.005, False, Verdict.ALIKE),
        (0.005, True, Verdict.ALIKE),
    ],
)
def test_which_is_better_by_the_direction_of_the_metric(
    by: float, is_minimized: bool | None, expected: Verdict
) -> None:
    """What both have in common, ten times the noise between them, cancels out."""
    found = Difference.of("cost", *shifted(by), is_minimized)
    assert found.verdict is expected
    assert found.value == pytest.approx(by)  # B − A, whatever is better


def test_of_few_rows_that_differ_the_exact_test_is_heard_too() -> None:
    few = RightWrong(90, 0, 5, 5, 0.0625)
    found = Difference.of("accuracy", *shifted(0.1), False, few)
    assert (found.verdict, found.is_contested) == (Verdict.ALIKE, True)
    many = Difference.of("accuracy", *shifted(0.1), False, RightWrong(80, 0, 9, 11, 0.004))
    assert (many.verdict, many.is_contested) == (Verdict.BETTER, False)


def test_a_metric_without_a_value_on_most_draws_says_nothing() -> None:
    a, b = shifted(0.1)
    a.draws[:-10] = np.nan
    found = Difference.of("own", a, b, False)
    assert (found.low, found.high, found.verdict) == (None, None, Verdict.ALIKE)
    assert found.as_dict()["low"] is None
