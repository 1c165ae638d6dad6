"""What trials score against what each costs alone: who is worth it."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from sweeper.config.schema import Config
from sweeper.money.statement import Statement
from sweeper.plots.marks import (
    Point,
    axis_words,
    base_line,
    circled,
    crowned,
    finite,
    legend,
    limits,
    marked,
    scaled,
    scored,
)
from sweeper.plots.picture import LeftOut, Picture, Theme, picture
from sweeper.search.cheaper import cheaper_tie
from sweeper.search.choice import LIKE
from sweeper.search.views import StudyView
from sweeper.units import time_text, usd_text

NAME = "cost_front"
MOST_ERRORS = 40  # trials that all have their error bars; of more, only the front and the winner


def cost_front(seen: StudyView, config: Config, cost: Statement | None) -> Picture | LeftOut:
    """The picture of a study: in dollars where each trial has some, else in seconds.

    Trials that were stopped are in it, with the best that they had: they are what is cheaper where all that came to
    their end took as long.
    """
    metric = config.objective.metric_name
    values = {
        trial.number: trial.value if trial.value is not None else trial.metrics.get(metric)
        for trial in seen.trials
        if trial.solo_s and trial.same_as is None
    }
    points = [(trial, value) for trial in seen.trials if finite(value := values.get(trial.number))]
    if len(points) < 2:
        return LeftOut(NAME, f"it takes two trials whose time alone was measured, but there are {len(points)}")
    usd = {one.number: one.solo_usd for one in cost.trials} if cost is not None else {}
    is_in_dollars = all(usd.get(trial.number) for trial, _ in points)
    at = {trial.number: (usd[trial.number] if is_in_dollars else trial.solo_s) or 0.0 for trial, _ in points}
    if max(at.values()) <= min(at.values()) * (1 + LIKE):
        return LeftOut(NAME, f"all {len(at)} trials take as long alone, {time_text(points[0][0].solo_s or 0.0)}")
    title = f"{metric} against {'dollars' if is_in_dollars else 'device seconds'}"
    sentence = _sentence(seen, metric, at, is_in_dollars)
    marked_at = [(trial, at[trial.number], value) for trial, value in points]
    return picture(NAME, title, sentence, partial(_fill, seen, config, marked_at, is_in_dollars))


def _sentence(seen: StudyView, metric: str, at: dict[int, float], is_in_dollars: bool) -> str:
    def price(value: float) -> str:
        return usd_text(value) if is_in_dollars else time_text(value)

    stopped = [at[trial.number] for trial in seen.trials if trial.value is None and trial.number in at]
    whose = "its" if len(stopped) == 1 else "their"
    rest = f"; {len(stopped)} that did not come to {whose} end took {price(sum(stopped))}" if stopped else ""
    best = seen.best
    if best is None or best.number not in at:
        return f"None of {len(at)} trials may win yet{rest}."
    own = at[best.number]
    words = f"The winner, trial {best.number}, scores {scored(best, metric)} for {price(own)} alone"
    cheaper = cheaper_tie(seen, metric)
    if cheaper is not None and cheaper.number in at:
        less = at[cheaper.number]
        words += f"; trial {cheaper.number}, {scored(cheaper, metric)}, is within noise of it for {price(less)}, "
        words += f"{1 - less / own:.0%} less"
    elif best.standard_error(metric) is None:
        words += f"; {metric} has no standard error, so that what is as good for less is not known"
    else:
        words += "; nothing that costs less is within noise of it"
    return f"{words}{rest}."


def _fill(
    seen: StudyView,
    config: Config,
    points: list[Point],
    is_in_dollars: bool,
    figure: Figure,
    theme: Theme,
) -> None:
    axes = figure.add_subplot()
    metric, best, cheaper = config.objective.metric_name, seen.best, cheaper_tie(seen, config.objective.metric_name)
    at = {trial.number: x for trial, x, _ in points}
    front = sorted((at[one.number], one.value or 0.0) for one in seen.pareto if one.number in at)
    told = {one.number for one in (best, cheaper, *seen.pareto) if one is not None}
    with_errors = [one for one in points if len(points) <= MOST_ERRORS or one[0].number in told]
    axes.errorbar(
        [x for _, x, _ in with_errors],
        [y for _, _, y in with_errors],
        yerr=[trial.standard_error(metric) or 0.0 for trial, _, _ in with_errors],
        fmt="none",
        ecolor=theme.muted,
        elinewidth=0.9,
        capsize=2,
        zorder=2,
    )
    marked(axes, theme, points)
    if len(front) > 1:
        xs, ys = zip(*front, strict=True)
        axes.step(xs, ys, where="post", color=theme.good, linewidth=1.6, label="best for the money")
    if cheaper is not None and cheaper.number in at:
        place = at[cheaper.number], cheaper.value or 0.0
        circled(axes, [place], theme.good, f"trial {cheaper.number}, within noise")
    if best is not None and best.number in at:
        crowned(axes, theme, (at[best.number], best.value or 0.0), f"winner, trial {best.number}")
    base = seen.attributes.get("baseline", {}).get(metric)
    base_line(axes, theme, base)
    values = [y for _, _, y in points]
    if (shown := limits(values, [y for _, y in front])) is not None:
        axes.set_ylim(*shown)
    scaled(axes.xaxis, list(at.values()))
    axes.set_xlabel("dollars, alone on the device" if is_in_dollars else "device seconds, alone on the device")
    axes.set_ylabel(axis_words(config.objective.metric_name, config.objective.is_minimized))
    legend(figure, axes, columns=2)
