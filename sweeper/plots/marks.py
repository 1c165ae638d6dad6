"""How trials are marked in every picture: by what became of them, and the winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sweeper.plots.picture import Theme
from sweeper.search.views import TrialView
from sweeper.trial import Reason

MOST_DRAWN = 300  # marks of a picture that are shapes of their own in an SVG; more are one image
LOG_FROM = 5.0  # times the smallest value that the largest is, where an axis is logarithmic
OFF_SCALE = 10.0  # times the span of the middle nine tenths that all values may have


@dataclass(frozen=True)
class Fate:
    """What became of a trial.

    Attributes:
        is_good: whether it may win.
    """

    words: str
    marker: str
    is_good: bool = False

    @property
    def is_line(self) -> bool:
        """Whether its marker has no area."""
        return self.marker in "x+"

    def colour(self, theme: Theme) -> str:
        """Of its marks."""
        return theme.plain if self.is_good else theme.muted if self is PRUNED else theme.bad


COMPLETE = Fate("complete", "o", is_good=True)
IN_FLIGHT = Fate("in flight", ".", is_good=True)
VIOLATING = Fate("breaks a constraint", "s")
PRUNED = Fate("pruned", "x")
WRECKED = Fate("wrecked the base", "+")
DIVERGED = Fate("diverged", "^")
INFEASIBLE = Fate("infeasible", "D")
FAILED = Fate("failed", "*")
FATES = (COMPLETE, VIOLATING, PRUNED, WRECKED, DIVERGED, INFEASIBLE, FAILED, IN_FLIGHT)
_BY_REASON = {
    Reason.PRUNER: PRUNED,
    Reason.WRECKED: WRECKED,
    Reason.DIVERGED: DIVERGED,
    Reason.INFEASIBLE: INFEASIBLE,
    Reason.DEFECT: FAILED,
}


def fate(trial: TrialView) -> Fate:
    """What became of a trial."""
    if not trial.is_told:
        return IN_FLIGHT
    if trial.state == "COMPLETE":
        return COMPLETE if trial.is_feasible else VIOLATING
    return FAILED if trial.state == "FAIL" else _BY_REASON.get(Reason(trial.reason or Reason.PRUNER), PRUNED)


Point = tuple[TrialView, float, float]  # a trial and where it lies


def marked(axes: Axes, theme: Theme, points: Sequence[Point], size: float = 34, alpha: float = 1.0) -> None:
    """Draws a mark for each trial, by what became of it; each kind of mark has a label."""
    for one in FATES:
        if own := [(x, y) for trial, x, y in points if fate(trial) is one]:
            xs, ys = zip(*own, strict=True)
            outline: Any = {} if one.is_line else {"edgecolors": theme.text}
            axes.scatter(
                xs,
                ys,
                s=size,
                c=one.colour(theme),
                marker=one.marker,
                alpha=alpha,
                linewidths=1.6 if one.is_line else 0.6,
                label=one.words,
                rasterized=len(points) > MOST_DRAWN,
                zorder=3,
                **outline,
            )


def circled(axes: Axes, at: Sequence[tuple[float, float]], colour: str, words: str, size: float = 150) -> None:
    """Puts a ring around what is spoken of."""
    if at:
        xs, ys = zip(*at, strict=True)
        axes.scatter(xs, ys, s=size, facecolors="none", edgecolors=colour, linewidths=1.8, zorder=5, label=words)


def crowned(axes: Axes, theme: Theme, at: tuple[float, float], words: str) -> None:
    """Marks the winner."""
    axes.scatter(
        [at[0]],
        [at[1]],
        marker="*",
        s=190,
        c=theme.winner,
        edgecolors=theme.text,
        linewidths=0.8,
        zorder=6,
        label=words,
    )


def base_line(axes: Axes, theme: Theme, value: float | None) -> None:
    """What the untuned base has, where that is known."""
    if value is not None and math.isfinite(value):
        axes.axhline(
            value, color=theme.text, linewidth=1.1, linestyle=(0, (1, 1.5)), label=f"untuned base {short(value)}"
        )


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def short(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) and abs(value) < 1e9 else f"{value:.3g}"


def clipped(text: str, most: int = 18) -> str:
    """A name that is not too long for its axis: its begin and its end, for names may differ in either."""
    end = most * 2 // 5
    return text if len(text) <= most else f"{text[: most - 1 - end]}…{text[-end:]}"


def scored(trial: TrialView, metric: str) -> str:
    """A trial's value, with its standard error."""
    error = trial.standard_error(metric)
    return short(float(trial.value or 0.0)) + (f" ± {error:.2g}" if error else "")


def axis_words(metric: str, is_minimized: bool) -> str:
    """The label of an axis that is the study's metric."""
    return f"{metric}, validation" + (" (less is better)" if is_minimized else "")


def finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a value that can be drawn."""
    return value is not None and math.isfinite(value)


def scaled(axis: Any, values: Sequence[float]) -> None:
    """Plain numbers on an axis, which is logarithmic where its values span much and are above zero."""
    low, high = min(values), max(values)
    if low > 0 and high >= LOG_FROM * low:
        axis._set_axes_scale("log")
        subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0, 3.0) if high < 1e4 * low else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def limits(values: Sequence[float], kept: Sequence[float] = ()) -> tuple[float, float] | None:
    """What of an axis is shown where a few values are so far off that they would hide all others; None: everything.

    Args:
        kept: values that are to be seen in any case.
    """
    if len(values) < 8:
        return None
    low, high = np.percentile(values, (5, 95))
    span = float(high - low)
    if span <= 0 or max(values) - min(values) <= OFF_SCALE * span:
        return None
    shown = [float(low), float(high), *kept]
    room = 0.15 * (max(shown) - min(shown))
    return min(shown) - room, max(shown) + room
