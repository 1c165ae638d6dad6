"""When a search no longer pays: the best has not become better, beyond noise, for so many trials or dollars. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.config.schema import NeverSection, NoImprovementSection
from sweeper.errors import number_of
from sweeper.search.ended import Ended
from sweeper.search.views import TrialView


def no_longer_pays(stop: NeverSection | NoImprovementSection, trials: Sequence[TrialView], metric: str) -> Ended | None:
    """Whether the study's rule ends its search now; None where it goes on.

    The mark is the last trial that was better than the mark before it by more than one standard error of the
    difference; without standard errors any improvement counts. So small steps add up: they are measured from the
    mark, not from each other. What breaks a constraint is no improvement.

    Args:
        trials: of the study, in any order: what counts is when they were told.
        metric: the one that the search goes by.
    """
    if isinstance(stop, NeverSection):
        return None
    told = sorted((trial for trial in trials if trial.is_told), key=lambda one: (one.told_at or 0.0, one.number))
    place, mark = _last_improvement(told, metric)
    since = told[place + 1 :]
    count, usd = sum(trial.is_trained for trial in since), _spent_usd(mark, since)
    if stop.trials is not None and count >= stop.trials:
        key = f"stop.trials={stop.trials}"
    elif stop.usd is not None and usd is not None and usd >= stop.usd:
        key = f"stop.usd={stop.usd:g}"
    else:
        return None
    taken = number_of(count, "trial", "trials") + (f", ${usd:.4g}" if usd is not None else "")
    if mark is None:
        message = f"{key}: no trial has given a result that keeps to the study's constraints: {taken}"
    else:
        message = f"{key}: no trial since trial {mark.number} ({_score(mark, metric)}) was better beyond noise: {taken}"
    figures = {
        "since_trial": mark.number if mark is not None else None,
        "value": mark.value if mark is not None else None,
        "trials": count,
        "usd": usd,
    }
    return Ended(key.partition("=")[0], message, figures)


def _last_improvement(told: Sequence[TrialView], metric: str) -> tuple[int, TrialView | None]:
    """The mark, and its place; -1 where no trial has a result."""
    place, mark = -1, None
    for index, trial in enumerate(told):
        if trial.merit is None or not trial.is_feasible or trial.same_as is not None:
            continue
        if mark is None or trial.merit - (mark.merit or 0.0) > (mark.noise(trial, metric) or 0.0):
            place, mark = index, trial
    return place, mark


def _spent_usd(mark: TrialView | None, since: Sequence[TrialView]) -> float | None:
    """What the study has cost since its mark was told, or since it began; None where that has no price.

    Where dollars are known of later trials alone, they are counted from the first of those.
    """
    known = [trial.spent_usd for trial in since if trial.spent_usd is not None]
    if not known:
        return None
    if mark is None:
        return max(known)
    return max(known) - (mark.spent_usd if mark.spent_usd is not None else min(known))


def _score(trial: TrialView, metric: str) -> str:
    error = trial.standard_error(metric)
    return f"{metric} {trial.value:.4g}" + (f" ± {error:.2g}" if error is not None else "")
