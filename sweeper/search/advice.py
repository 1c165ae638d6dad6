"""What a study's own evidence says about the next step: ranges that end too early, near-misses, too little training.

Pure: what is not in the storage, such as which labels are taken for each other, is given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.config.schema import Config
from sweeper.config.space import Range, values_of
from sweeper.errors import number_of
from sweeper.quoting import name_of
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason

EDGE = 0.05  # of a range, on its own scale, that counts as its edge
NEAR = 0.02  # above a constraint's limit, in its own units: of retention two points
FEW_ROWS = 1000  # to train on, below which more are worth a thought
NOISE_ERRORS = 2.0  # standard errors within which a winner is no better than the base
SHOWN = 3  # pairs of labels that are named
MIN_CONFUSED = 3  # rows that make such a pair a pattern


@dataclass(frozen=True)
class Confused:
    """So many rows of one label got another."""

    truth: str
    predicted: str
    rows: int


def shortfall(study: StudyView, config: Config) -> str | None:
    """Why the best trial is nothing to use, in words; None where it is, or where that is not known yet."""
    best, metric = study.best, config.objective.metric_name
    if best is None:
        complete = [trial for trial in study.trials if trial.value is not None]
        if not complete:
            return f"No trial is complete ({study.summary()}), so there is no winner."
        return f"None of the {len(complete)} complete trials keeps to the study's constraints, so there is no winner."
    test = study.attributes.get("test", {})
    if test.get("trial") != best.number:
        return None
    gain, error = _gain(test, metric)
    gain = -gain if config.objective.is_minimized else gain
    if error is None or gain > NOISE_ERRORS * error:
        return None
    if gain < -NOISE_ERRORS * error:
        return f"The winner is worse than the untuned base on the test split, by {-gain:.3f} ± {error:.3f} {metric}."
    return (
        f"The winner cannot be told from the untuned base on the test split: {metric} differs by {gain:+.3f} ± "
        f"{error:.3f}, and it takes {NOISE_ERRORS:g} standard errors."
    )


def _gain(test: dict[str, dict[str, float]], metric: str) -> tuple[float, float | None]:
    """The winner's metric less the base's, and the standard error of that."""
    if (known := test.get("against_base")) is not None:
        return known["difference"], known["standard_error"]
    winner, base = test["winner"], test["base"]  # a study from before they were compared row by row
    errors = [scores.get(f"{metric}_se") for scores in (winner, base)]
    error = math.hypot(*(error for error in errors if error is not None)) if None not in errors else None
    return winner[metric] - base[metric], error


def next_steps(study: StudyView, config: Config, confused: Sequence[Confused] = ()) -> list[str]:
    """What to try next, the strongest evidence first, a sentence each.

    Args:
        confused: labels that the best trial takes for each other, the most frequent first.
    """
    best = study.best
    steps = _misses(study, config, best)
    if not any(trial.value is not None for trial in study.trials):
        steps += _none_complete(study)
    if best is not None:
        steps += _edges(config, best) + _course(config, best)
    steps += _rows(study)
    named = [
        f"`{name_of(one.truth)}` for `{name_of(one.predicted)}` ({one.rows})"
        for one in confused
        if one.rows >= MIN_CONFUSED
    ]
    if named:
        steps.append(
            f"Wrong rows are mostly {', '.join(named[:SHOWN])}, the right label first: look at them with "
            f"`sweeper errors {study.name}`; their labels may overlap, or need more rows."
        )
    return steps


def _none_complete(study: StudyView) -> list[str]:
    """What ended the trials of a study in which none is complete."""
    why = Counter(trial.reason for trial in study.trials if trial.reason is not None)
    cures = {
        Reason.WRECKED: "lower learning rates or ranks keep more of the base (search.space.learning_rate), and "
        "retention.stop_wrecked=false trains them to their end",
        Reason.DIVERGED: "try lower learning rates (search.space.learning_rate)",
        Reason.PRUNER: "pruner=none trains all of them to their end",
        Reason.INFEASIBLE: "less fits: fewer tokens to a row, a lower rank, a smaller model, or more memory",
    }
    return [
        f"{number_of(count, 'trial', 'trials')} ended as {reason}: {cures[Reason(reason)]} (another study.name)."
        for reason, count in why.most_common()
        if reason in cures
    ]


def _misses(study: StudyView, config: Config, best: TrialView | None) -> list[str]:
    """Trials that would have won, but for a constraint that they hardly miss; without a winner the least infeasible."""
    steps = []
    better = [trial for trial in study.infeasible if best is None or (trial.merit or 0.0) > (best.merit or 0.0)]
    names = sorted({name for trial in better for name, value in trial.constraints.items() if value > 0})
    metric = config.objective.metric_name
    for name in names:
        missing = [trial for trial in better if trial.constraints.get(name, 0.0) > 0]
        nearest = min(missing, key=lambda trial: trial.constraints[name])
        excess = nearest.constraints[name]
        if best is not None and excess > NEAR:
            continue
        cure = "fewer examples, a lower rank or learning rate keep more of it" if name == "retention" else "try less"
        steps.append(
            f"Trial {nearest.number} has {metric} {nearest.value:.3f}, but its {name} is {excess:.3g} above its limit: "
            f"{cure}, or allow as much."
        )
    return steps


def _edges(config: Config, best: TrialView) -> list[str]:
    steps = []
    for name, value in best.params.items():
        side = _edge(config, name, value)
        if side is not None:
            shown = f"{value:.3g}" if isinstance(value, float) else value
            steps.append(
                f"The best {name} is {shown}, at the {side} end of search.space.{name}: "
                f"try {'higher' if side == 'upper' else 'lower'} ones (another study.name)."
            )
    return steps


def _edge(config: Config, name: str, value: object) -> str | None:
    """At which end of its range or of its ordered choices a value is; None where at none."""
    parameter = config.search.space.get(name)
    if parameter is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not isinstance(parameter, Range):
        choices = values_of(parameter) or []
        numbers = sorted(float(one) for one in choices if isinstance(one, int | float) and not isinstance(one, bool))
        if len(numbers) < max(3, len(choices)):  # of two, each is at an end
            return None
        return "lower" if value == numbers[0] else "upper" if value == numbers[-1] else None
    scale = math.log if parameter.log else float
    low, high = scale(parameter.low), scale(parameter.high)
    place = (scale(value) - low) / (high - low) if high > low else 0.5
    return "lower" if place <= EDGE else "upper" if place >= 1 - EDGE else None


def _course(config: Config, best: TrialView) -> list[str]:
    """Whether the best trial still got better when it ended."""
    metric = config.objective.metric_name
    merits = [-value if config.objective.is_minimized else value for value in best.evaluations]
    if len(merits) < 2 or merits[-1] < max(merits):
        return []
    gain, error = merits[-1] - merits[-2], best.standard_error(metric)
    if error is None or gain <= error / 2:  # the same rows twice: their own error is mostly shared
        return []
    epochs = "search.space.epochs" if "epochs" in config.search.space else "train.epochs"
    key = "train.examples" if config.train.examples is not None else epochs
    return [
        f"The best trial still gained {gain:.3f} {metric} at its last evaluation: train longer ({key}, another "
        "study.name)."
    ]


def _rows(study: StudyView) -> list[str]:
    if (curve := study.attributes.get("learning_curve")) is not None and curve["twice"] is not None:
        return [curve["sentences"][0]]
    rows = study.attributes.get("train_rows")
    if rows is None or rows >= FEW_ROWS:
        return []
    return [f"There are {rows} training rows, which is few: more of them often buy more than more trials."]
