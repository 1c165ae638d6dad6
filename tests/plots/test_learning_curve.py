"""The picture of a learning curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.errors import StoreError
from sweeper.learning.curve import LearningCurve
from sweeper.plots.learning_curve import learning_curve, of_curve
from sweeper.plots.picture import LIGHT, LeftOut, Picture, write
from tests.learning.test_curve import curve
from tests.plots.conftest import inked, words


@pytest.mark.parametrize(
    "found",
    [
        curve(),
        curve(examples=1200),
        curve(error=0.0),  # has no law
        curve([8.0, 7.0, 6.0, 5.0], error=0.05, metric="cost", is_minimized=True, is_share=False, trial=None),
    ],
)
def test_every_curve_is_drawn(found: LearningCurve) -> None:
    baseline = 0.1 if found.is_share else None
    made = of_curve(found, baseline)
    assert inked(made)
    assert made.sentence == found.sentences()[0]
    assert ("untuned base 0.1" in words(made)) == found.is_share
    kept = learning_curve(found.as_dict(), "demo", baseline)
    assert isinstance(kept, Picture)
    assert (kept.title, kept.sentence) == (made.title, made.sentence)


def test_one_that_was_not_measured_is_left_out() -> None:
    made = learning_curve(None, "demo", None)
    assert isinstance(made, LeftOut)
    assert "`sweeper learning-curve demo` does" in made.reason


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"must go to a folder that can be written, but .*No such file"):
        write(of_curve(curve(), None), LIGHT, tmp_path / "missing" / "curve.png")
    write(of_curve(curve(), None), LIGHT, tmp_path / "curve.png")
    assert [one.name for one in tmp_path.iterdir()] == ["curve.png"]
