"""What the tests of pictures ask of them."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.image import imread
from matplotlib.text import Text

from sweeper.plots.picture import DARK, LIGHT, Picture, Theme, rendered


def inked(picture: Picture, theme: Theme = LIGHT) -> bool:
    """Whether a picture can be drawn, in both forms, and is not blank."""
    figure = picture.draw(theme)
    pixels = imread(io.BytesIO(rendered(figure, theme, "png")))
    return bool(pixels[..., :3].std() > 0.05) and rendered(figure, theme, "svg").startswith(b"<svg ")


def words(picture: Picture) -> str:
    """All that is written in a picture."""
    figure = picture.draw(LIGHT)
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
