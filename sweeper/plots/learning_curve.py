"""The picture of a learning curve: its points, its law, and where twice the rows would lead."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from sweeper.learning.curve import LearningCurve
from sweeper.plots.picture import COLOURS, figure, write


def draw(curve: LearningCurve, study: str, baseline: float | None, file: Path) -> None:
    """Draws a learning curve.

    Args:
        baseline: what the untuned base scores.

    Raises:
        StoreError: if the file cannot be written.
    """
    made, [axes] = figure()
    seen = np.array([curve.seen(point) for point in curve.points], dtype=float)
    values, errors = ([getattr(point, name) for point in curve.points] for name in ("value", "error"))
    axes.errorbar(seen, values, yerr=errors, fmt="o", capsize=3, color=COLOURS[0], label="measured ± standard error")
    ticks = {int(rows) for rows in seen}
    if (found := curve.forecast) is not None:
        shares = np.geomspace(seen.min(), 2 * seen.max(), 80) / seen.max()
        low, high = (curve.sign * edge for edge in found.band(shares))
        axes.fill_between(shares * seen.max(), low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="90 %")
        for part, style in ((shares <= 1, "-"), (shares >= 1, "--")):
            law = curve.sign * found.law.at(shares[part])
            axes.plot(shares[part] * seen.max(), law, style, color=COLOURS[0], linewidth=1.4)
        ticks.add(int(2 * seen.max()))
    if baseline is not None:
        axes.axhline(baseline, color=COLOURS[5], linewidth=1, linestyle=":", label="untuned base")
    axes.set_xscale("log")
    axes.set_xticks(sorted(ticks), [f"{rows:,}" for rows in sorted(ticks)])
    axes.minorticks_off()
    axes.set_xlabel("training rows" + (" seen" if curve.examples < curve.rows else ""))
    axes.set_ylabel(f"{curve.metric}, validation")
    axes.legend(loc="best", frameon=False, fontsize="small")
    whose = f"trial {curve.trial}" if curve.trial is not None else "start of the search"
    axes.set_title(f"{study}, {whose}\n" + textwrap.fill(curve.sentences()[0], 84), fontsize="small", loc="left")
    write(made, file)
