"""The pictures of a study, as a page needs them: drawn once for each theme; and as files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sweeper.plots.album import Album, Picture, album
from sweeper.plots.picture import DARK, LIGHT, LeftOut, Theme, attempted, rendered
from sweeper.report.content import Figure, Image, Paragraph
from sweeper.report.facts import Facts

MOST_SVG_BYTES = 400_000  # of many points a PNG is smaller, and quicker to show


@dataclass(frozen=True)
class Figures:
    """The pictures of a report.

    Attributes:
        files: each as a PNG that stands for itself, by its name.
        failed: those that there would be, and cannot be drawn.
    """

    shown: Sequence[Figure]
    files: dict[str, bytes]
    failed: Sequence[LeftOut]

    @property
    def blocks(self) -> tuple[Figure | Paragraph, ...]:
        """The pictures, and words for each that failed."""
        return (
            *self.shown,
            *(Paragraph(f"The picture `{one.name}` is left out: {one.reason}.") for one in self.failed),
        )


def figures(facts: Facts, on_page: bool = True, as_files: bool = True) -> Figures:
    """What there is to show, in its order; a picture that cannot be drawn costs none of the others.

    Args:
        on_page: drawn for a page, light and dark; otherwise their sentences alone.
        as_files: drawn as files too.
    """
    return drawn(album(facts.paths, facts.seen, facts.config, facts.cost), on_page, as_files)


def drawn(found: Album, on_page: bool = True, as_files: bool = True) -> Figures:
    """The pictures of an album."""
    shown: list[Figure] = []
    files: dict[str, bytes] = {}
    failed = [one for one in found.left_out if one.has_failed]
    for one in found.pictures:
        made = attempted(one.name, partial(_drawn, one, on_page, as_files))
        if isinstance(made, LeftOut):
            failed.append(made)
            continue
        figure, file = made
        shown.append(figure)
        if file is not None:
            files[one.name] = file
    return Figures(shown, files, failed)


def _drawn(shown: Picture, on_page: bool, as_file: bool) -> tuple[Figure, bytes | None]:
    light, dark = (_image(shown, theme) if on_page else None for theme in (LIGHT, DARK))
    file = rendered(shown.draw(LIGHT), LIGHT, "png") if as_file else None
    return Figure(shown.name, shown.title, shown.sentence, light, dark), file


def _image(shown: Picture, theme: Theme) -> Image:
    drawn = shown.draw(theme)
    svg = rendered(drawn, theme, "svg")
    return Image("svg", svg) if len(svg) <= MOST_SVG_BYTES else Image("png", rendered(drawn, theme, "png"))
