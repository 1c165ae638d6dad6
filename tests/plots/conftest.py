"""What the tests of pictures ask of them."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.image import imread
from matplotlib.text import Text

from sweeper.plots.picture import DARK, LIGHT, LeftOut, Picture, Theme, rendered
from tests.launch.test_tables import scored


def inked(picture: Picture, theme: Theme = LIGHT) -> bool:
    """Whether a picture can be drawn, and is not blank."""
    pixels = imread(io.BytesIO(rendered(picture.draw(theme), theme, "png")))
    return bool(pixels[..., :3].std() > 0.05)


def words(picture: Picture) -> str:
    """All that is written in a picture."""
    figure = picture.draw(LIGHT)
    with LIGHT.applied():
        figure.draw_without_rendering()
    return "\n".join(found.get_text() for found in figure.findobj(Text) if found.get_visible())


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2.2."""
    return float(linear(colour) @ (0.2126, 0.7152, 0.0722))


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


THEMES = (LIGHT, DARK)


def drawn(made: Picture | LeftOut) -> Axes:
    """The first axes of a picture."""
    assert isinstance(made, Picture), made
    return made.draw(LIGHT).axes[0]


def marks(axes: Axes, label: str) -> list[tuple[float, float]]:
    """Where the marks of one label are."""
    return [
        (float(x), float(y))
        for found in axes.collections
        if isinstance(found, PathCollection) and found.get_label() == label
        for x, y in found.get_offsets()
    ]


def line(axes: Axes, label: str) -> list[tuple[float, float]]:
    """The points of the line with a label that begins so."""
    [found] = [one for one in axes.lines if str(one.get_label()).startswith(label)]
    return [(float(x), float(y)) for x, y in zip(found.get_xdata(), found.get_ydata(), strict=True)]


def course(*values: float) -> tuple[dict[str, float], ...]:
    """Evaluations after 100, 200 and so on examples."""
    return tuple({"examples": 100.0 * place, **scored(value)} for place, value in enumerate(values, start=1))
