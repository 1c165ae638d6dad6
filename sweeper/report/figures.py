"""The pictures of a study, as a page needs them: drawn once for each theme."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sweeper.plots.album import Picture, pictures
from sweeper.plots.picture import DARK, LIGHT, Theme, rendered
from sweeper.report.content import Figure, Image
from sweeper.report.facts import Facts

MOST_SVG_BYTES = 400_000  # of many points a PNG is smaller, and quicker to show


def album(facts: Facts) -> list[Picture]:
    """What there is to show, in its order."""
    return pictures(facts.paths, facts.seen, facts.config, facts.cost)


def figures(shown: Iterable[Picture], are_drawn: bool = True) -> Iterator[Figure]:
    """The pictures for a page, light and dark; or their sentences alone."""
    for one in shown:
        light, dark = (_image(one, theme) if are_drawn else None for theme in (LIGHT, DARK))
        yield Figure(one.name, one.title, one.sentence, light, dark)


def _image(shown: Picture, theme: Theme) -> Image:
    drawn = shown.draw(theme)
    svg = rendered(drawn, theme, "svg")
    return Image("svg", svg) if len(svg) <= MOST_SVG_BYTES else Image("png", rendered(drawn, theme, "png"))


def png(shown: Picture) -> bytes:
    """The picture as a file that stands for itself."""
    return rendered(shown.draw(LIGHT), LIGHT, "png")
