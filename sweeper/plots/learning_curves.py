"""The course of every trial: the metric against the training examples that it had seen."""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sweeper.config.schema import Config
from sweeper.plots.marks import (
    COMPLETE,
    FATES,
    IN_FLIGHT,
    MOST_DRAWN,
    Point,
    axis_words,
    base_line,
    fate,
    legend,
    limits,
    marked,
    short,
)
from sweeper.plots.picture import LeftOut, Picture, Theme, picture
from sweeper.search.views import StudyView, TrialView

NAME = "learning_curves"
FAINTEST = 0.06  # of a line
Course = NDArray[np.float64]  # (evaluations, 2): examples seen, and the metric


def learning_curves(seen: StudyView, config: Config) -> Picture | LeftOut:
    """The picture of a study."""
    metric = config.objective.metric_name
    courses = [(trial, _course(trial, metric)) for trial in seen.trials if trial.same_as is None]
    courses = [(trial, course) for trial, course in courses if len(course)]
    if not courses:
        return LeftOut(NAME, "no trial has been evaluated yet")
    sentence = _sentence(seen, courses)
    return picture(NAME, "Learning curves of all trials", sentence, partial(_fill, seen, config, courses))


def _course(trial: TrialView, metric: str) -> Course:
    points = [(point["examples"], point.get(metric, np.nan)) for point in trial.curve]
    made: Course = np.array(points, dtype=np.float64).reshape(-1, 2)
    whole: Course = made[np.isfinite(made).all(1)]
    return whole


def _of(best: TrialView | None, courses: list[tuple[TrialView, Course]]) -> Course | None:
    return next((course for trial, course in courses if best is not None and trial.number == best.number), None)


def _sentence(seen: StudyView, courses: list[tuple[TrialView, Course]]) -> str:
    best = seen.best
    ended = sum(trial.state == "COMPLETE" for trial, _ in courses)
    stopped = sum(trial.is_told for trial, _ in courses) - ended
    in_flight = len(courses) - ended - stopped
    counts = [f"{ended} came to {'its' if ended == 1 else 'their'} planned end"]
    counts += [f"{stopped} {'was' if stopped == 1 else 'were'} stopped"] if stopped else []
    counts += [f"{in_flight} {'is' if in_flight == 1 else 'are'} in flight"] if in_flight else []
    words = f"Of {len(courses)} trial{'s' * (len(courses) > 1)} {', '.join(counts)}"
    own = _of(best, courses)
    if best is None or own is None or best.value is None:
        return f"{words}."
    at = own[np.abs(own[:, 1] - best.value).argmin(), 0]
    words += f"; the winner, trial {best.number}, reached {short(best.value)} after {at:,.0f} examples"
    others = [trial.value for trial, _ in courses if trial.value is not None and trial.number != best.number]
    return f"{words}, where the middle of the others is {short(statistics.median(others))}." if others else f"{words}."


def _fill(
    seen: StudyView, config: Config, courses: list[tuple[TrialView, Course]], figure: Figure, theme: Theme
) -> None:
    axes = figure.add_subplot()
    best, metric = seen.best, config.objective.metric_name
    base = seen.attributes.get("baseline", {}).get(metric)
    own = _of(best, courses)
    _lines(axes, theme, [one for one in courses if best is None or one[0].number != best.number])
    ends: list[Point] = [
        (trial, float(course[-1, 0]), float(course[-1, 1]))
        for trial, course in courses
        if best is None or trial.number != best.number
    ]
    many = len(courses) > MOST_DRAWN
    size, alpha = (10, 0.4) if many else (26, 1.0)
    marked(axes, theme, ends, size, alpha)
    kept = [base] if base is not None else []
    if own is not None and best is not None:
        label = f"winner, trial {best.number}"
        axes.plot(*own.T, color=theme.winner, linewidth=2.4, marker="o", markersize=4, zorder=6, label=label)
        kept += own[:, 1].tolist()
    base_line(axes, theme, base)
    if (shown := limits(np.concatenate([course[:, 1] for _, course in courses]).tolist(), kept)) is not None:
        axes.set_ylim(*shown)
    axes.set_xlim(left=0)
    axes.set_xlabel("training examples seen")
    axes.set_ylabel(axis_words(config.objective.metric_name, config.objective.is_minimized))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    legend(figure, axes)


def _lines(axes: Axes, theme: Theme, courses: list[tuple[TrialView, Course]]) -> None:
    """The lines of those that did not win, each kind as one collection; the more there are, the fainter."""
    found = {one: [course for trial, course in courses if fate(trial) is one] for one in FATES}
    for one, own in found.items():
        if not own:
            continue
        is_whole = one in (COMPLETE, IN_FLIGHT)
        lines = LineCollection(
            own,
            colors=one.colour(theme),
            linewidths=1.2 if is_whole else 0.7,
            linestyles="dashed" if one is IN_FLIGHT else "solid",
            alpha=max(FAINTEST, min(0.8, 20 / len(courses))),
            rasterized=len(courses) > MOST_DRAWN,
        )
        axes.add_collection(lines)
    axes.autoscale_view()
