"""The picture of a learning curve."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from sweeper.errors import StoreError
from sweeper.learning.curve import LearningCurve
from sweeper.plots.learning_curve import draw
from tests.learning.test_curve import curve


@pytest.mark.parametrize(
    "found",
    [
        curve(),
        curve(examples=1200),
        curve(error=0.0),  # has no law
        curve([8.0, 7.0, 6.0, 5.0], error=0.05, metric="cost", is_minimized=True, is_share=False, trial=None),
    ],
)
def test_every_curve_is_drawn(found: LearningCurve, tmp_path: Path) -> None:
    file = tmp_path / "curve.png"
    draw(found, "demo", 0.1 if found.is_share else None, file)
    first = imread(file)
    assert first.std() > 0.05  # not blank
    draw(found, "demo", 0.1 if found.is_share else None, file)
    assert (imread(file) == first).all()
    assert [one.name for one in tmp_path.iterdir()] == ["curve.png"]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"must go to a folder that can be written, but .*No such file"):
        draw(curve(), "demo", None, tmp_path / "missing" / "curve.png")
