"""How much of its trials a study trains, by its pruner: a simple model, for plans.

It takes the ranks of trials to stay as they are from the first evaluation on, so that whoever is to be stopped is
stopped at the first chance. Trials that diverge or wreck the base, and so end earlier still, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sweeper.config.sampling import (
    HyperbandSection,
    MedianSection,
    PatientSection,
    PercentileSection,
    SuccessiveHalvingSection,
)
from sweeper.config.schema import Config


@dataclass(frozen=True)
class Kept:
    """What a pruner leaves of trials, in the mean over them.

    Attributes:
        trained: the share of its length that a trial is trained for.
        complete: the share of trials that come to their end.
    """

    trained: float
    complete: float


WHOLE = Kept(1.0, 1.0)


def kept(config: Config, trials: float, evaluations: float) -> Kept:
    """What the study's pruner leaves of so many trials with so many evaluations each.

    median, percentile: nothing is stopped before `startup_trials` are complete, nor of those that begin with them; of
    the others all below the median, or not among the best share, stop at the first evaluation after
    `warmup_evaluations`. patient: likewise, but at the earliest after `patience` evaluations without improvement.
    successive-halving: one in `reduction_factor` goes on from each rung. hyperband: likewise, in its brackets.
    """
    section = config.pruner
    if trials <= 0 or evaluations <= 1:  # the last evaluation stops nobody
        return WHOLE
    if isinstance(section, SuccessiveHalvingSection):
        return _halved(section.min_evaluations, section.reduction_factor, evaluations)
    if isinstance(section, HyperbandSection):
        parts = list(_brackets(section, config.most_evaluations()))
        whole = sum(weight for _, weight in parts)
        found = [(_halved(first, section.reduction_factor, evaluations), weight / whole) for first, weight in parts]
        return Kept(sum(one.trained * share for one, share in found), sum(one.complete * share for one, share in found))
    if not isinstance(section, MedianSection | PercentileSection | PatientSection):
        return WHOLE
    stopped = 1 - section.percentile / 100 if isinstance(section, PercentileSection) else 0.5
    first = section.warmup_evaluations + 1
    if isinstance(section, PatientSection):
        first = max(first, section.patience + 2)  # one more than it compares with
    if first >= evaluations:
        return WHOLE
    started = max(section.startup_trials, min(config.most_slots, trials))
    stopped *= max(0.0, 1 - started / trials)
    return Kept(1 - stopped * (1 - first / evaluations), 1 - stopped)


def _halved(first: int, factor: int, evaluations: float) -> Kept:
    """Of trials that are looked at after `first` evaluations, `factor` times as many, and so on."""
    trained, alive, at, rung = 0.0, 1.0, 0.0, float(first)
    while rung < evaluations:
        trained += alive * (rung - at)
        alive, at, rung = alive / factor, rung, rung * factor
    return Kept((trained + alive * (evaluations - at)) / evaluations, alive)


def _brackets(section: HyperbandSection, most: int) -> Iterator[tuple[int, float]]:
    """The first rung of each bracket, and its weight: as optuna.pruners.HyperbandPruner gives trials to them."""
    factor, least = section.reduction_factor, section.min_evaluations
    count = max(0, math.floor(math.log(most / least, factor) + 1e-9)) + 1
    for bracket in range(count):
        left = count - 1 - bracket
        yield least * factor**bracket, math.ceil(count * factor**left / (left + 1))


def records(trials: float, places: int) -> float:
    """How many of trials that end one after the other, in any order, are among the best so far.

    The nth is with the probability places/n.
    """
    whole = round(trials)
    return min(trials, places) + sum(places / nth for nth in range(places + 1, whole + 1))
