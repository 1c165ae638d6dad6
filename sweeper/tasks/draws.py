"""Rows that are drawn again, as how often each is drawn, and what is computed from counts alone. Needs no model.

To draw rows is to draw how often each comes, so that a mean over drawn rows is a product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sweeper.uncertainty import ERROR_DRAWS

Array = NDArray[np.float64]


def times(rows: int, draws: int, seed: int) -> Array:
    """How often each row is in each draw, `(draws, rows)`."""
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), draws).astype(float)


def macro_f1(counts: Array, truth: Sequence[str], said: Sequence[str]) -> Array:
    """Macro-F1 of each draw, over the labels that are in it, `(draws,)`: it costs milliseconds.

    Args:
        counts: `(draws, rows)`.
    """
    labels = sorted(set(truth))
    is_true = np.asarray([[one == label for label in labels] for one in truth], dtype=float)
    is_said = np.asarray([[one == label for label in labels] for one in said], dtype=float)
    of_truth = counts @ is_true
    f1 = 2 * (counts @ (is_true * is_said)) / np.maximum(of_truth + counts @ is_said, 1)
    is_there = of_truth > 0
    means: Array = (f1 * is_there).sum(1) / is_there.sum(1)
    return means


def macro_f1_error(labels: Sequence[str], truth: Sequence[str], predictions: Sequence[str]) -> float:
    """The standard error of macro-F1: rows drawn again within each true label, which keeps rare labels in.

    Drawing rows is drawing the cells of the confusion matrix, which costs milliseconds.
    """
    known = list(dict.fromkeys([*labels, *predictions]))
    place = {label: index for index, label in enumerate(known)}
    confusion = np.zeros((len(labels), len(known)))
    for label, prediction in zip(truth, predictions, strict=True):
        confusion[place[label], place[prediction]] += 1
    generator = np.random.default_rng(0)
    rows = confusion.sum(1)
    # (labels, draws, known)
    drawn = np.stack(
        [generator.multinomial(int(n), cells / n, ERROR_DRAWS) for n, cells in zip(rows, confusion, strict=True)]
    )
    hits = np.stack([drawn[index, :, index] for index in range(len(labels))])
    guesses = drawn.sum(0)[:, : len(labels)].T
    f1 = 2 * hits / (rows[:, None] + guesses)  # rows is never zero
    return float(f1.mean(0).std(ddof=1))
