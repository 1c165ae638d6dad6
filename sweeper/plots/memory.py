"""The memory that was foretold of each trial's largest step against what it took."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from sweeper.plots.marks import Point, legend, marked
from sweeper.plots.picture import LeftOut, Picture, Theme, picture
from sweeper.search.views import StudyView

NAME = "memory"
ABOVE = 1.005  # times its forecast that a peak is above it, beyond rounding
HEADROOM = 1.5  # times the largest peak that a budget may be, and still be in the picture


def memory(seen: StudyView) -> Picture | LeftOut:
    """The picture of a study."""
    points: list[Point] = [
        (trial, trial.vram_predicted_gib, trial.vram_peak_gib)
        for trial in seen.trials
        if trial.vram_predicted_gib and trial.vram_peak_gib
    ]
    if not points:
        return LeftOut(NAME, "no trial has a forecast of its memory and a reading")
    known = seen.attributes.get("memory", {})
    budget_gib = known.get("budget_gib")
    title = "Memory that was foretold, and that was taken"
    return picture(NAME, title, _sentence(points, budget_gib), partial(_fill, points, budget_gib))


def _sentence(points: list[Point], budget_gib: float | None) -> str:
    ratios = [peak / foretold for _, foretold, peak in points]
    above = sum(ratio > ABOVE for ratio in ratios)
    highest = max(peak for _, _, peak in points)
    low, high = (f"{ratio:.0%}" for ratio in (min(ratios), max(ratios)))
    range_words = low if low == high else f"{low} to {high}"
    words = f"The largest steps of {len(points)} trial{'s' * (len(points) > 1)} took {range_words} of what was foretold"
    words += f", {above} of them more than that" if above else ", none of them more than that"
    of = f" of a budget of {budget_gib:.3g} GiB" if budget_gib is not None else ""
    return f"{words}; the highest peak was {highest:.3g} GiB{of}."


def _fill(points: list[Point], budget_gib: float | None, figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    values = [value for _, foretold, peak in points for value in (foretold, peak)]
    room = 0.08 * ((max(values) - min(values)) or max(values))
    low, high = max(0.0, min(values) - room), max(values) + room
    is_near = budget_gib is not None and budget_gib <= HEADROOM * max(values)
    if is_near and budget_gib is not None:
        high = max(high, budget_gib + room)
        axes.axhline(
            budget_gib, color=theme.winner, linewidth=1.3, linestyle="--", label=f"budget {budget_gib:.3g} GiB"
        )
    axes.axline((low, low), (high, high), color=theme.muted, linewidth=1, linestyle=(0, (1, 1.5)), label="as foretold")
    axes.fill_between(
        [low, high], [low, high], high, color=theme.bad, alpha=0.1, linewidth=0, label="more than foretold"
    )
    marked(axes, theme, points)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.locator_params(nbins=5)
    axes.set_xlabel("foretold, GiB")
    axes.set_ylabel("peak that was measured, GiB")
    legend(figure, axes)
