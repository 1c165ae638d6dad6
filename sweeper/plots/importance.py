"""Which searched parameters matter: the share of the metric's variance over the space that each explains.

By fANOVA (Hutter, Hoos, Leyton-Brown, ICML 2014), and not by PED-ANOVA, which is Optuna's default: that asks what tells
the best tenth of the trials from the others, which is no share of a variance, and with few trials says little. In 20
trials of which rank explained nine tenths of the variance, fANOVA gave it 0.92 and PED-ANOVA 0.03.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from optuna.trial import create_trial

from sweeper.config.schema import Config
from sweeper.plots.marks import clipped, finite, short
from sweeper.plots.picture import LeftOut, Picture, Theme, picture
from sweeper.search.samplers import distributions
from sweeper.search.views import StudyView, TrialView

NAME = "importance"
FEWEST = 8  # complete trials
MOST = 250  # complete trials, evenly among all: 1,000 take 8 s, and these 1.4 s
MOST_GROUPS = 6  # values of a parameter that are compared one by one; of more, thirds
SEED = 0
optuna.logging.set_verbosity(optuna.logging.WARNING)  # or it announces the study that importance is computed in


@dataclass(frozen=True)
class Importance:
    """What each parameter explains, the most important first.

    Attributes:
        of: how many complete trials it was computed from.
    """

    shares: dict[str, float]
    of: int


def importances(seen: StudyView, config: Config) -> Importance | LeftOut:
    """The importance of the parameters that varied among the complete trials; none where these are too few."""
    trials = [trial for trial in seen.trials if finite(trial.value) and trial.same_as is None]
    if len(trials) < FEWEST:
        return LeftOut(NAME, f"it takes {FEWEST} complete trials, but there are {len(trials)}")
    if len({trial.value for trial in trials}) < 2:
        return LeftOut(NAME, f"all {len(trials)} complete trials have the same value")
    varied = [
        name
        for name in config.search.space
        if all(name in trial.params for trial in trials) and len({str(trial.params[name]) for trial in trials}) > 1
    ]
    if not varied:
        return LeftOut(NAME, "no parameter that every trial has differs between them")
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # half a second: scikit-learn

    step = max(1.0, len(trials) / MOST)
    taken = [trials[int(place * step)] for place in range(min(MOST, len(trials)))]
    known = distributions(config)
    size = max(
        abs(trial.value or 0.0) for trial in trials
    )  # shares are of any size, and squares of large values are not
    study = optuna.create_study(direction=config.objective.direction)
    for trial in taken:
        params = {name: trial.params[name] for name in varied}
        study.add_trial(
            create_trial(
                params=params, distributions={name: known[name] for name in varied}, value=(trial.value or 0.0) / size
            )
        )
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=SEED), params=varied)
    return Importance(dict(sorted(shares.items(), key=lambda one: -one[1])), len(taken))


def importance(seen: StudyView, config: Config, found: Importance | LeftOut) -> Picture | LeftOut:
    """The picture of a study."""
    if isinstance(found, LeftOut):
        return found
    metric = config.objective.metric_name
    sentence = _sentence(seen, config, found)
    height_in = 1.7 + 0.32 * len(found.shares)
    return picture(NAME, f"What {metric} depends on", sentence, partial(_fill, found, metric), height_in)


def _sentence(seen: StudyView, config: Config, found: Importance) -> str:
    name, share = next(iter(found.shares.items()))
    groups = _groups([trial for trial in seen.trials if finite(trial.value) and trial.same_as is None], name)
    order = sorted(groups, key=lambda one: one[1], reverse=not config.objective.is_minimized)
    words = f"{name} matters most ({share:.0%} of the variance)"
    if len(order) > 1:
        (best, value), (worst, least) = order[0], order[-1]
        words += f": {best} scores {short(value)} in the mean, {worst} scores {short(least)}"
    complete = sum(finite(trial.value) and trial.same_as is None for trial in seen.trials)
    whose = f"{complete}" if found.of == complete else f"{found.of} of {complete}"
    return f"{words}, by {whose} complete trials."


def _groups(trials: Sequence[TrialView], name: str) -> list[tuple[str, float]]:
    """The mean for each value of a parameter, or for each third of them."""
    values: list[Any] = sorted(
        {trial.params[name] for trial in trials}, key=lambda value: (isinstance(value, str), value)
    )
    if len(values) <= MOST_GROUPS or any(isinstance(value, str) for value in values):
        parts = [(short(value), [t.value or 0.0 for t in trials if t.params[name] == value]) for value in values]
    else:
        ordered = sorted(trials, key=lambda trial: trial.params[name])
        thirds = [ordered[len(ordered) * part // 3 : len(ordered) * (part + 1) // 3] for part in range(3)]
        parts = [
            (f"{short(third[0].params[name])} to {short(third[-1].params[name])}", [t.value or 0.0 for t in third])
            for third in thirds
        ]
    return [(words, statistics.fmean(own)) for words, own in parts if own]


def _fill(found: Importance, metric: str, figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    names, shares = list(found.shares), list(found.shares.values())
    axes.barh(range(len(names)), shares, color=theme.plain, height=0.62)
    for place, share in enumerate(shares):
        axes.annotate(f"{share:.0%}", (share, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(names)), [clipped(name, 20) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, max(shares) * 1.15 or 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"share of the variance of {metric} over the space")
