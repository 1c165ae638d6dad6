"""Metrics on rows that are drawn again: what the task itself gives on the same draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.data.row import Row
from sweeper.errors import CustomCodeError
from sweeper.tasks.classification import Classification
from sweeper.tasks.comments import Comments
from sweeper.tasks.custom import NamedScores, WithMetric
from sweeper.tasks.generation import Generation
from sweeper.tasks.resampled import DRAWS, SLOW_DRAWS, Resampler, difference

LABELS = ["a", "b", "c", "d"]


def row(number: int, label: str = "", answers: Sequence[str] = ()) -> Row:
    return Row(place=f"rows:{number}", text="text", label=label, answers=tuple(answers))


def by_hand(resampler: Resampler, task: Any, metric: str, rows: list[Row], texts: list[str]) -> list[float]:
    found = []
    for counts in resampler._counts[:40]:
        drawn = [index for index, count in enumerate(counts) for _ in range(int(count))]
        scores = task.score([rows[index] for index in drawn], [texts[index] for index in drawn])
        found.append(scores.as_dict()[metric])
    return found


@settings(max_examples=10, deadline=None)
@given(st.data(), st.sampled_from(["accuracy", "macro_f1"]))
def test_labels(data: st.DataObject, metric: str) -> None:
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=3, max_size=30))
    rows = [row(number, label) for number, (label, _) in enumerate(pairs)]
    texts, task = [said for _, said in pairs], Classification({label: [ord(label)] for label in LABELS})
    resampler = Resampler(task, metric, rows, seed=1, is_known=True)
    found = resampler.score(texts)
    assert found.value == pytest.approx(task.score(rows, texts).as_dict()[metric])
    assert found.draws[:40] == pytest.approx(by_hand(resampler, task, metric, rows, texts))


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
def test_written_answers(metric: str) -> None:
    rows = [row(number, answers=["the red house", f"house {number}"]) for number in range(9)]
    texts, task = ["red house", "house 1", "a blue one"] * 3, Generation(str, 8, 0)
    resampler = Resampler(task, metric, rows, seed=1, is_known=True)
    assert resampler.score(texts).draws[:40] == pytest.approx(by_hand(resampler, task, metric, rows, texts), abs=1e-5)


@pytest.mark.parametrize("metric", ["rouge_l", "bleu", "chrf"])
def test_comments(metric: str) -> None:
    said = ["Return the name of a file.", "Close it.", "Read all lines of the file and return them as a list."]
    rows = [row(number, answers=[said[number % 3], f"Number {number}"]) for number in range(9)]
    texts, task = [*said[:2], "Read all lines of a file and return a list."] * 3, Comments(str, 8, 0)
    resampler = Resampler(task, metric, rows, seed=1, is_known=True)
    found = resampler.score(texts)
    assert found.value == pytest.approx(task.score(rows, texts).as_dict()[metric])
    assert len(found.draws) == DRAWS
    assert found.draws[:40] == pytest.approx(by_hand(resampler, task, metric, rows, texts))


def test_a_metric_of_ones_own_may_have_a_known_name() -> None:
    class Lenient(Generation):
        def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Any:
            return NamedScores({"accuracy": 0.25})

    rows = [row(number, answers=["x"]) for number in range(6)]
    found = Resampler(Lenient(str, 8, 0), "accuracy", rows, seed=1, is_known=False).score(["y"] * 6)
    assert set(found.draws) == {0.25}


def test_a_metric_that_is_no_mean_over_rows_is_computed_for_each_draw() -> None:
    class Spread(Generation):
        def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Any:
            return NamedScores({"spread": float(np.std([len(text) for text in predictions]))})

    rows, texts, task = (
        [row(n, answers=["x"]) for n in range(6)],
        ["", "a", "bb", "ccc", "d", "eeeee"],
        Spread(str, 8, 0),
    )
    resampler = Resampler(task, "spread", rows, seed=1, is_known=False)
    found = resampler.score(texts)
    assert len(found.draws) == SLOW_DRAWS
    assert found.draws[:40] == pytest.approx(by_hand(resampler, task, "spread", rows, texts))
    assert found.value == pytest.approx(float(np.std([0, 1, 2, 3, 1, 5])))


def test_what_predictions_have_in_common_cancels_out() -> None:
    """The paired difference of two that differ in one row of 400 has the error of that row alone."""
    rows = [row(number, LABELS[number % 4]) for number in range(400)]
    task = Classification({label: [ord(label)] for label in LABELS})
    one = [LABELS[0]] * 400
    other = [LABELS[1], *one[1:]]
    resampler = Resampler(task, "accuracy", rows, seed=1, is_known=True)
    first, second = resampler.score(one), resampler.score(other)
    assert (first.draws - second.draws).std() == pytest.approx(1 / 400, rel=0.1)
    assert first.draws.std() == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.1)


def test_a_metric_that_raises_on_some_draws_has_no_value_there() -> None:
    """As one that needs rows of each label; on the rows as they are it has one."""

    class Balanced(Generation):
        def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Any:
            if not any(row.answers == ("rare",) for row in rows):
                raise CustomCodeError("metric `balanced` raised an exception")
            return NamedScores({"balanced": len(rows) / 10})

    rows = [row(number, answers=["rare" if number == 0 else "common"]) for number in range(10)]
    resampler = Resampler(Balanced(str, 8, 0), "balanced", rows, seed=1, is_known=False)
    found = resampler.score(["x"] * 10)
    lacks = resampler._counts[:, 0] == 0
    assert found.value == 1.0
    assert 0.2 < lacks.mean() < 0.5  # (9/10)¹⁰
    assert np.isnan(found.draws).tolist() == lacks.tolist()
    assert len(difference(found.draws, found.draws)) == (~lacks).sum()
    assert len(difference(found.draws[lacks][:30], found.draws[:30])) == 0


def test_of_a_users_metric_beside_a_task_that_alone_is_drawn_again() -> None:
    calls = []

    class Counted(Generation):
        def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Any:
            calls.append(len(rows))
            return super().score(rows, predictions)

    def metric(rows: Any, predictions: Sequence[str]) -> dict[str, float]:
        return {"length": float(np.mean([len(text) for text in predictions]))}

    task = WithMetric(Counted(str, 8, 0), metric, None)  # type: ignore[arg-type]
    rows = [row(number, answers=["x"]) for number in range(4)]
    found = Resampler(task, "length", rows, seed=1, is_known=False).score(["", "a", "bb", "ccc"])
    assert (found.value, calls) == (1.5, [4])
    assert len(set(found.draws)) > 3
