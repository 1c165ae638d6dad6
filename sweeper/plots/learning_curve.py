"""The picture of a learning curve: its points, its law, and where twice the rows would lead."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from sweeper.learning.curve import LearningCurve
from sweeper.plots.marks import axis_words, base_line, legend
from sweeper.plots.picture import LeftOut, Picture, Theme, picture

NAME = "learning_curve"


def learning_curve(kept: dict[str, object] | None, study: str, baseline: float | None) -> Picture | LeftOut:
    """The picture of the curve that a study keeps."""
    if kept is None:
        return LeftOut(NAME, f"it was not measured; `sweeper learning-curve {study}` does")
    return of_curve(LearningCurve.from_dict(kept), baseline)


def of_curve(curve: LearningCurve, baseline: float | None) -> Picture:
    """The picture of a learning curve.

    Args:
        baseline: what the untuned base scores.
    """
    whose = f"trial {curve.trial}" if curve.trial is not None else "start of the search"
    title = f"{curve.metric} by training rows, {whose}"
    return picture(NAME, title, curve.sentences()[0], partial(_fill, curve, baseline))


def _fill(curve: LearningCurve, baseline: float | None, figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    seen = np.array([curve.seen(point) for point in curve.points], dtype=float)
    values, errors = ([getattr(point, name) for point in curve.points] for name in ("value", "error"))
    axes.errorbar(seen, values, yerr=errors, fmt="o", capsize=3, color=theme.plain, label="measured ± standard error")
    ticks = {int(rows) for rows in seen}
    if (found := curve.forecast) is not None:
        shares = np.geomspace(seen.min(), 2 * seen.max(), 80) / seen.max()
        low, high = (curve.sign * edge for edge in found.band(shares))
        axes.fill_between(shares * seen.max(), low, high, color=theme.plain, alpha=0.18, linewidth=0, label="90 %")
        for part, style, label in ((shares <= 1, "-", "power law"), (shares >= 1, "--", "foretold")):
            law = curve.sign * found.law.at(shares[part])
            axes.plot(shares[part] * seen.max(), law, style, color=theme.plain, linewidth=1.4, label=label)
        ticks.add(int(2 * seen.max()))
    base_line(axes, theme, baseline)
    axes.set_xscale("log")
    axes.set_xticks(sorted(ticks), [f"{rows:,}" for rows in sorted(ticks)])
    axes.minorticks_off()
    axes.set_xlabel("training rows" + (" seen" if curve.examples < curve.rows else ""))
    axes.set_ylabel(axis_words(curve.metric, curve.is_minimized))
    legend(figure, axes)
