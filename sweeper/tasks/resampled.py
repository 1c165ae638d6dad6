"""The metric of a split whose rows are drawn again and again: how much of a difference the choice of rows explains.

All predictions are scored on the same draws, so that what they have in common, rows that are hard for all, cancels out:
the paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993; of texts Koehn, EMNLP 2004).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.data.row import Row
from sweeper.errors import CustomCodeError
from sweeper.search.choice import LEAST_DRAWS
from sweeper.tasks.comments import best_rouge_l, corpus_scores
from sweeper.tasks.custom import WithMetric
from sweeper.tasks.draws import Array, macro_f1, times
from sweeper.tasks.generation import row_scores
from sweeper.tasks.task import Task

DRAWS = 2000
SLOW_DRAWS = 200  # of a metric that is computed anew from the rows of each draw
# Metrics that are means over rows, and what each row adds to them.
_MEANS: dict[str, Callable[[Row, str], float]] = {
    "accuracy": lambda row, text: float(row.label == text),
    "exact_match": lambda row, text: row_scores(row.answers, text)[0],
    "token_f1": lambda row, text: row_scores(row.answers, text)[1],
    "rouge_l": lambda row, text: best_rouge_l(row.answers, text),
}
_OF_COUNTS = ("macro_f1", "bleu", "chrf")  # and those that are computed of what the rows count


@dataclass(frozen=True)
class Resampled:
    """A metric of one set of predictions: `value` on the rows as they are, and `(draws,)` on each draw.

    A draw is not a number where a metric of the user's has no value on it, as without any row of a rare label.
    """

    value: float
    draws: Array


def difference(one: Array, other: Array) -> Array:
    """That of two metrics on the draws on which both have a value; none where these are too few to say anything."""
    found = one - other
    found = found[np.isfinite(found)]
    return found if len(found) >= LEAST_DRAWS else found[:0]


class Resampler:
    """Scores predictions for the rows of one split, always on the same draws.

    Args:
        is_known: whether the metric is one of `sweeper.config.teaching.METRICS`; the user's own may have the same name.
    """

    def __init__(self, task: Task, metric: str, rows: Sequence[Row], seed: int, is_known: bool) -> None:
        self._task, self._metric, self._rows = task, metric, rows
        self._mean = _MEANS.get(metric) if is_known else None
        self._is_of_counts = is_known and metric in _OF_COUNTS
        draws = DRAWS if self._mean is not None or self._is_of_counts else SLOW_DRAWS
        self._counts = times(len(rows), draws, seed)  # (draws, rows): how often each row is in each draw

    def score(self, texts: Sequence[str]) -> Resampled:
        """The metric of predictions, one for each row.

        Raises:
            CustomCodeError: if a metric of the user's raises.
        """
        value = self._task.score(self._rows, texts).as_dict()[self._metric]
        if self._mean is not None:
            by_row = [self._mean(row, text) for row, text in zip(self._rows, texts, strict=True)]
            return Resampled(value, self._counts @ np.asarray(by_row) / len(self._rows))
        if self._is_of_counts and self._metric == "macro_f1":
            return Resampled(value, macro_f1(self._counts, [row.label for row in self._rows], texts))
        if self._is_of_counts:
            truth = [row.answers for row in self._rows]
            return Resampled(value, np.asarray(corpus_scores(self._metric, truth, texts, self._counts.astype(int))))
        return Resampled(value, np.asarray([self._anew(counts, texts) for counts in self._counts]))

    def value(self, places: Sequence[int], texts: Sequence[str]) -> float:
        """The metric of predictions for some of the rows alone; raises as `score` does."""
        return self._task.score([self._rows[place] for place in places], texts).as_dict()[self._metric]

    def _anew(self, counts: Array, texts: Sequence[str]) -> float:
        index = np.repeat(np.arange(len(self._rows)), counts.astype(int)).tolist()
        score = self._task.score_own if isinstance(self._task, WithMetric) else self._task.score
        try:
            drawn = score([self._rows[row] for row in index], [texts[row] for row in index])
        except CustomCodeError:  # on the rows as they are it does not raise
            return math.nan
        return drawn.as_dict()[self._metric]
