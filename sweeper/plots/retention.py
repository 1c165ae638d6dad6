"""What trials forget of what the base could do, against what they learn of the task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from sweeper.config.schema import Config
from sweeper.plots.marks import MOST_DRAWN, Point, axis_words, circled, crowned, finite, legend, marked, short
from sweeper.plots.picture import LeftOut, Picture, Theme, picture
from sweeper.retention.measure import CONSTRAINT, FULL, PREFIX
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason

NAME = "retention"
MOST_ERRORS = 40  # trials that all have their error bars
LOSS = {  # what a drop is of, in words
    "accuracy": "share of answers lost",
    "perplexity": "share of likelihood lost",
}


def retention(seen: StudyView, config: Config) -> Picture | LeftOut:
    """The picture of a study."""
    known = seen.attributes.get("retention")
    if known is None or known.get("constrains") is None:
        return LeftOut(NAME, "nothing of the base is held to a tolerance")
    metric = config.objective.metric_name
    points = []
    for trial in seen.trials:
        values = _evaluation(trial)
        value, lost = values.get(metric), _of(values, "drop")
        if trial.same_as is None and finite(value) and finite(lost):
            points.append((trial, value, lost))
    if not points:
        return LeftOut(NAME, "no trial has been held against the base yet")
    title = f"What is forgotten ({known['constrains']}) against {metric}"
    return picture(NAME, title, _sentence(seen, points, known), partial(_fill, seen, config, points, known))


def _evaluation(trial: TrialView) -> Mapping[str, float]:
    """The evaluation that a trial is held to: its last where it was stopped for that, else its best."""
    return trial.curve[-1] if trial.reason == Reason.WRECKED and trial.curve else trial.metrics


def _of(values: Mapping[str, float], name: str) -> float | None:
    """By the whole suite where a trial was held to that, else by the sample."""
    return values.get(f"{FULL}{name}", values.get(f"{PREFIX}{name}"))


def _error(trial: TrialView) -> float:
    return _of(_evaluation(trial), "drop_se") or 0.0


def _sentence(seen: StudyView, points: list[Point], known: dict[str, Any]) -> str:
    over = sum(trial.constraints.get(CONSTRAINT, 0.0) > 0 for trial, _, _ in points)
    words = f"{over} of {len(points)} trials forget more than is tolerated"
    best = seen.best
    own = next((lost for trial, _, lost in points if best is not None and trial.number == best.number), None)
    if best is None or own is None:
        return f"{words}."
    tolerance = known["tolerance"] if f"{FULL}drop" in best.metrics else known["sample"]["tolerance"]
    lost = f"loses {own:.3f} ± {_error(best):.3f}" if own > 0 else f"loses nothing ({own:+.3f} ± {_error(best):.3f})"
    return f"{words}; the winner, trial {best.number}, {lost}, where {tolerance:.3f} is tolerated."


def _fill(
    seen: StudyView, config: Config, points: list[Point], known: dict[str, Any], figure: Figure, theme: Theme
) -> None:
    axes = figure.add_subplot()
    best = seen.best
    few = [one for one in points if len(points) <= MOST_ERRORS or (best is not None and one[0].number == best.number)]
    axes.errorbar(
        [value for _, value, _ in few],
        [lost for _, _, lost in few],
        yerr=[_error(trial) for trial, _, _ in few],
        fmt="none",
        ecolor=theme.muted,
        elinewidth=0.9,
        capsize=2,
        zorder=2,
    )
    many = len(points) > MOST_DRAWN
    marked(axes, theme, points, 14 if many else 34)
    over = [(value, lost) for trial, value, lost in points if trial.constraints.get(CONSTRAINT, 0.0) > 0]
    circled(axes, over, theme.bad, "forgets too much", 40 if many else 150)
    for trial, value, lost in points:
        if best is not None and trial.number == best.number:
            crowned(axes, theme, (value, lost), f"winner, trial {best.number}")
    of_whole, of_sample = known["tolerance"], known["sample"]["tolerance"]
    axes.axhline(of_whole, color=theme.text, linewidth=1.3, label=f"tolerated: {short(of_whole)}")
    if of_sample != of_whole:
        words = f"of what was measured on a sample: {short(of_sample)}"
        axes.axhline(of_sample, color=theme.text, linewidth=1.1, linestyle="--", label=words)
    axes.axhline(0, color=theme.muted, linewidth=0.8, linestyle=(0, (1, 1.5)))
    axes.margins(0.08, 0.1)
    axes.set_xlabel(axis_words(config.objective.metric_name, config.objective.is_minimized))
    axes.set_ylabel(LOSS[str(known["constrains"])])
    legend(figure, axes, columns=2)
