"""The metric of a split whose rows are drawn again and again: how much of a difference the choice of rows explains.

All predictions are scored on the same draws, so that what they have in common, rows that are hard for all, cancels out:
the paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993; of texts Koehn, EMNLP 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeper.data.row import Row
from sweeper.tasks.task import Task

DRAWS = 2000
SLOW_DRAWS = 200  # of a metric that is computed anew from the rows of each draw
# Metrics that are means over rows, and what `Task.judged` calls their values.
_MEANS = {"accuracy": "is_correct", "exact_match": "is_correct", "token_f1": "token_f1"}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Resampled:
    """A metric of one set of predictions: `value` on the rows as they are, and `(draws,)` on each draw."""

    value: float
    draws: Array


class Resampler:
    """Scores predictions for the rows of one split, always on the same draws."""

    def __init__(self, task: Task, metric: str, rows: Sequence[Row], seed: int) -> None:
        self._task, self._metric, self._rows = task, metric, rows
        self._is_fast = metric in _MEANS or metric == "macro_f1"
        draws = DRAWS if self._is_fast else SLOW_DRAWS
        generator = np.random.default_rng(seed)
        # (draws, rows): how often each row is in each draw
        self._counts: Array = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), draws).astype(float)

    def score(self, texts: Sequence[str]) -> Resampled:
        """The metric of predictions, one for each row.

        Raises:
            CustomCodeError: if a metric of the user's raises.
        """
        value = self._task.score(self._rows, texts).as_dict()[self._metric]
        if self._metric in _MEANS:
            name = _MEANS[self._metric]
            judged = [self._task.judged(row, text)[name] for row, text in zip(self._rows, texts, strict=True)]
            return Resampled(value, self._counts @ np.asarray(judged, dtype=float) / len(self._rows))
        if self._metric == "macro_f1":
            return Resampled(value, self._macro_f1(texts))
        return Resampled(value, np.asarray([self._anew(counts, texts) for counts in self._counts]))

    def _macro_f1(self, texts: Sequence[str]) -> Array:
        """Macro-F1 of each draw, over the labels that are in it: from counts, which costs milliseconds."""
        labels = sorted({row.label for row in self._rows})
        truth = np.asarray([[row.label == label for label in labels] for row in self._rows], dtype=float)
        said = np.asarray([[text == label for label in labels] for text in texts], dtype=float)
        of_truth = self._counts @ truth
        f1 = 2 * (self._counts @ (truth * said)) / np.maximum(of_truth + self._counts @ said, 1)
        is_there = of_truth > 0
        means: Array = (f1 * is_there).sum(1) / is_there.sum(1)
        return means

    def _anew(self, counts: Array, texts: Sequence[str]) -> float:
        index = np.repeat(np.arange(len(self._rows)), counts.astype(int)).tolist()
        drawn = self._task.score([self._rows[row] for row in index], [texts[row] for row in index])
        return drawn.as_dict()[self._metric]
