"""What trials score against what each costs alone: who is worth it."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from sweeper.config.schema import Config
from sweeper.money.statement import Statement
from sweeper.plots.marks import axis_words, base_line, circled, crowned, finite, legend, limits, marked, scaled, scored
from sweeper.plots.picture import LeftOut, Picture, Theme, picture
from sweeper.search.choice import LIKE
from sweeper.search.pareto import cheaper_tie
from sweeper.search.views import StudyView, TrialView
from sweeper.units import time_text, usd_text

NAME = "cost_front"
MOST_ERRORS = 40  # trials that all have their error bars; of more, only the front and the winner


def cost_front(seen: StudyView, config: Config, cost: Statement | None) -> Picture | LeftOut:
    """The picture of a study: in dollars where each trial has some, else in seconds."""
    trials = [trial for trial in seen.trials if finite(trial.value) and trial.solo_s and trial.same_as is None]
    if len(trials) < 2:
        return LeftOut(NAME, f"it takes two complete trials whose time alone was measured, but there are {len(trials)}")
    usd = {one.number: one.solo_usd for one in cost.trials} if cost is not None else {}
    is_in_dollars = all(usd.get(trial.number) for trial in trials)
    at = {trial.number: (usd[trial.number] if is_in_dollars else trial.solo_s) or 0.0 for trial in trials}
    if max(at.values()) <= min(at.values()) * (1 + LIKE):
        return LeftOut(NAME, f"all {len(at)} complete trials take as long alone, {time_text(trials[0].solo_s or 0.0)}")
    title = f"{config.objective.metric_name} against {'dollars' if is_in_dollars else 'device seconds'}"
    sentence = _sentence(seen, config.objective.metric_name, at, is_in_dollars)
    return picture(NAME, title, sentence, partial(_fill, seen, config, trials, at, is_in_dollars))


def _sentence(seen: StudyView, metric: str, at: dict[int, float], is_in_dollars: bool) -> str:
    best = seen.best
    if best is None or best.number not in at:
        return f"{len(at)} complete trials, none of which may win yet."
    own = at[best.number]

    def price(value: float) -> str:
        return usd_text(value) if is_in_dollars else time_text(value)

    words = f"The winner, trial {best.number}, scores {scored(best, metric)} for {price(own)} alone"
    cheaper = cheaper_tie(seen, metric)
    if cheaper is not None and cheaper.number in at:
        less = at[cheaper.number]
        return (
            f"{words}; trial {cheaper.number}, {scored(cheaper, metric)}, is within noise of it for {price(less)}, "
            f"{1 - less / own:.0%} less."
        )
    if best.standard_error(metric) is None:
        return f"{words}; {metric} has no standard error, so that what is as good for less is not known."
    return f"{words}; nothing that costs less is within noise of it."


def _fill(
    seen: StudyView,
    config: Config,
    trials: list[TrialView],
    at: dict[int, float],
    is_in_dollars: bool,
    figure: Figure,
    theme: Theme,
) -> None:
    axes = figure.add_subplot()
    metric, best, cheaper = config.objective.metric_name, seen.best, cheaper_tie(seen, config.objective.metric_name)
    points = [(trial, at[trial.number], float(trial.value or 0.0)) for trial in trials]
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
    axes.set_ylabel(axis_words(config.objective))
    legend(figure, axes, columns=2)
