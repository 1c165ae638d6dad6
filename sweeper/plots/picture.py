"""What a picture is, in which colours, and as which file. Figures are made without pyplot, which would look for a
screen and keep every figure; so are those of optuna.visualization.matplotlib, which is why its values are taken and
drawn here.

The colours are those of Okabe and Ito (Color Universal Design, 2008) that stand out from both backgrounds. No colour is
the only sign of anything: markers, hatches, styles of lines and words say it too.
"""

from __future__ import annotations

import io
import logging
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib
from matplotlib import colormaps, font_manager
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from sweeper.errors import StoreError, SweeperError
from sweeper.paths import write_atomically

DPI = 150
WIDTH_IN, HEIGHT_IN = 5.4, 3.9  # narrow: a page may show it on a telephone
FONT_PT = 10.0
LINE = 80  # characters of a heading
Form = Literal["png", "svg"]
Made = TypeVar("Made")
_HEADING = "heading"
_WIDE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei", "Noto Sans")
logger = logging.getLogger(__name__)


@cache
def _fonts() -> list[str]:
    """The font that comes with matplotlib, and those of this machine that have the characters that it lacks."""
    there = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _WIDE if name in there)]


@dataclass(frozen=True)
class Theme:
    """The colours of a picture.

    Attributes:
        text: of words and of what is drawn in ink.
        muted: of what is beside the point.
        colours: told apart by whoever sees no red, or no green.
        scale: the part of `viridis` that stands out from the background.
    """

    name: str
    background: str
    text: str
    muted: str
    grid: str
    colours: tuple[str, str, str, str]
    scale: tuple[float, float]

    @property
    def plain(self) -> str:
        """Of what is neither good nor bad."""
        return self.colours[0]

    @property
    def winner(self) -> str:
        return self.colours[1]

    @property
    def good(self) -> str:
        return self.colours[2]

    @property
    def bad(self) -> str:
        return self.colours[3]

    def shades(self) -> Colormap:
        """From nothing to much."""
        return LinearSegmentedColormap.from_list("shades", [self.background, self.plain])

    def ink_on(self, paper: Any) -> str:
        """Black or white, whichever stands out more from a colour."""
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in paper[:3])
        # Where the contrast ratio of WCAG 2.2 is the same for both: (1 + 0.05) / (L + 0.05) = (L + 0.05) / 0.05.
        return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"

    def colormap(self, is_minimized: bool = False) -> Colormap:
        """From the worst value to the best."""
        ends = self.scale[::-1] if is_minimized else self.scale
        shades = colormaps["viridis"]
        steps = [shades(ends[0] + (ends[1] - ends[0]) * step / 63) for step in range(64)]
        return LinearSegmentedColormap.from_list("merit", steps)

    @contextmanager
    def applied(self, **more: Any) -> Iterator[None]:
        """What is drawn within has these colours."""
        ink = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor", "legend.labelcolor")
        frame = ("axes.edgecolor", "xtick.color", "ytick.color")
        paper = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
        settings = {
            **dict.fromkeys(ink, self.text),
            **dict.fromkeys(frame, self.muted),
            **dict.fromkeys(paper, self.background),
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": self.grid,
            "grid.linewidth": 0.6,
            "font.family": "sans-serif",
            "font.sans-serif": _fonts(),
            "font.size": FONT_PT,
            "legend.frameon": False,
            "legend.fontsize": "small",
            "hatch.linewidth": 0.6,
            "text.parse_math": False,  # a $ is a dollar
            **more,
        }
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a PNG has boxes, and an SVG the text
            yield


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1b1f24",
    muted="#5c636b",
    grid="#e3e6ea",
    colours=("#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    scale=(0.0, 0.8),
)
DARK = Theme(
    name="dark",
    background="#15191e",
    text="#e9ecef",
    muted="#a3abb4",
    grid="#2c333b",
    colours=("#56b4e9", "#e69f00", "#009e73", "#cc79a7"),
    scale=(0.28, 1.0),
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}


@dataclass(frozen=True)
class Picture:
    """One picture of a study.

    Attributes:
        name: a file's stem.
        sentence: what it says, with its figures.
        draw: makes the figure; its heading is `title` and `sentence`, which `rendered` leaves out of an SVG, for a page
            that has its own words around it.
    """

    name: str
    title: str
    sentence: str
    draw: Callable[[Theme], Figure]


@dataclass(frozen=True)
class LeftOut:
    """A picture that there is not, and why.

    Attributes:
        has_failed: whether it would show something, and cannot be drawn.
    """

    name: str
    reason: str
    has_failed: bool = False


def picture(
    name: str,
    title: str,
    sentence: str,
    fill: Callable[[Figure, Theme], None],
    height_in: float = HEIGHT_IN,
) -> Picture:
    """A picture whose figure `fill` fills."""

    def draw(theme: Theme) -> Figure:
        with theme.applied():
            figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
            figure.set_label(name)
            heading = f"{title}\n{textwrap.fill(sentence, LINE)}"
            figure.suptitle(heading, x=0.01, ha="left", fontsize="small", linespacing=1.35, gid=_HEADING)
            fill(figure, theme)
        return figure

    return Picture(name, title, sentence, draw)


def rendered(figure: Figure, theme: Theme, form: Form) -> bytes:
    """A figure as PNG, with its heading, or as an `<svg>` element without; the same bytes for the same figure.

    The text of an SVG is text, in whatever sans-serif a page is shown in. Its ids are its own, so that several may
    stand on one page.
    """
    if form == "png":
        made = io.BytesIO()
        with theme.applied():
            figure.savefig(made, format="png", dpi=DPI, metadata={"Software": None})
        return made.getvalue()
    name = f"{figure.get_label()}-{theme.name}"
    headings = [text for text in figure.texts if text.get_gid() == _HEADING]
    for heading in headings:
        heading.set(visible=False, in_layout=False)
    made_text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with theme.applied(**{"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(made_text, format="svg", dpi=DPI, metadata=nothing)
    for heading in headings:
        heading.set(visible=True, in_layout=True)
    element = made_text.getvalue()
    element = re.sub("<[^>]*>", lambda tag: _with_ids_of(name, tag[0]), element[element.index("<svg") :].rstrip())
    return element.replace("<svg ", f'<svg id="{name}" role="img" ', 1).replace("*{", f"#{name} *{{", 1).encode()


def _with_ids_of(name: str, tag: str) -> str:
    """A tag with its ids, and those that it refers to, begun with a name."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)


def attempted(name: str, make: Callable[[], Made]) -> Made | LeftOut:
    """What is made of a picture, or that it is left out: one that fails must not cost the others.

    The log has the trace.
    """
    try:
        return make()
    except Exception as error:  # drawing libraries raise anything, with values that nobody has thought of
        logger.warning("the picture %s is left out", name, exc_info=error)
        words = str(error) if isinstance(error, SweeperError | OSError) else type(error).__name__
        return LeftOut(name, f"it cannot be drawn: {words}", has_failed=True)


def write(made: Picture, theme: Theme, file: Path, form: Form = "png") -> LeftOut | None:
    """Writes a picture; a reader sees the old file or the new one.

    Returns:
        Why there is none, where it cannot be drawn.

    Raises:
        StoreError: if the file cannot be written.
    """
    content = attempted(made.name, lambda: rendered(made.draw(theme), theme, form))
    if isinstance(content, LeftOut):
        return content
    try:
        write_atomically(file, content, is_for_all=True)
    except OSError as error:
        raise StoreError(
            f"the picture must go to a folder that can be written, but {file}: {error.strerror}"
        ) from error
    return None
