"""Rows that are drawn again, by hand; `test_resampled.py` holds them to what tasks give."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.tasks.draws import macro_f1, times


def test_each_draw_has_as_many_rows_as_there_are() -> None:
    drawn = times(7, 50, seed=3)
    assert drawn.shape == (50, 7)
    assert set(drawn.sum(1)) == {7.0}
    assert (drawn == times(7, 50, seed=3)).all()
    assert (drawn != times(7, 50, seed=4)).any()


def test_macro_f1_is_over_the_labels_of_the_draw() -> None:
    """Of a: 2 ⋅ 1 / (2 + 1); of b: 2 ⋅ 1 / (1 + 2). The second draw has no b in it."""
    truth, said = ["a", "a", "b"], ["a", "b", "b"]
    found = macro_f1(np.asarray([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]]), truth, said)
    assert found == pytest.approx([2 / 3, 1.0])
