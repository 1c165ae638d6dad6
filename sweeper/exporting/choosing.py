"""Which trial is exported, and whether it can be."""

from __future__ import annotations

from pathlib import Path

from sweeper.config.schema import Config
from sweeper.config.teaching import METRICS
from sweeper.errors import ExportError
from sweeper.paths import StudyPaths
from sweeper.retention.measure import FULL, PREFIX
from sweeper.search.advice import shortfall
from sweeper.search.views import StudyView, TrialView

_LOWER = {f"{PREFIX}drop", f"{PREFIX}perplexity", f"{FULL}drop", f"{FULL}perplexity"}  # that are better the lower


def kept_adapter(seen: StudyView, config: Config, paths: StudyPaths, trial: TrialView) -> Path:
    """The folder of a trial's adapter; raises ExportError where it is not kept."""
    adapter = paths.adapter(trial.number)
    if not adapter.is_dir():
        kept = ", ".join(map(str, seen.attributes.get("adapters", []))) or "none"
        raise ExportError(
            f"the adapter of trial {trial.number} must still be there, but only those of the best "
            f"{config.store.keep_adapters} trials are kept (store.keep_adapters): {kept}"
        )
    return adapter


def choose(seen: StudyView, config: Config, number: int | None, metric: str | None, force: bool) -> TrialView:
    """The trial of that number, or the best by a metric, or the winner.

    Args:
        metric: another one than the study's, by which the best of those within the constraints is taken.
        force: where there is no winner, the best of those that break a constraint.

    Raises:
        ExportError: if there is none.
    """
    if number is not None:
        return chosen(seen, number)
    if metric is not None and metric != config.objective.metric_name:
        return _best_by(seen, config, metric)
    return _winner(seen, config, force)


def _best_by(seen: StudyView, config: Config, metric: str) -> TrialView:
    found = [trial for trial in seen.ranked if trial.same_as is None and metric in trial.metrics]
    known = sorted({name for trial in seen.ranked for name in trial.metrics if not name.endswith("_se")})
    others = (set(METRICS[config.task.name]) | _LOWER) - {config.objective.metric_name}
    known = [name for name in known if name in others]
    if metric not in known:
        raise ExportError(
            f"--metric: must be one that complete trials have, and that better and worse is known of: "
            f"{', '.join([config.objective.metric_name, *known])}; but got {metric}"
        )
    sign = -1 if metric in _LOWER else 1
    return max(found, key=lambda trial: sign * trial.metrics[metric])


def _winner(seen: StudyView, config: Config, force: bool) -> TrialView:
    """The winner; where there is none, `force` takes the best of those that break a constraint."""
    best = seen.best or next(iter(seen.infeasible), None)
    if best is None:
        raise ExportError(
            f"an export needs a complete trial, but {seen.name!r} has {seen.summary()}; `sweeper best {seen.name}` "
            "says what to try next"
        )
    problem = shortfall(seen, config)
    if problem is not None and not force:
        raise ExportError(
            f"what is exported must be of use: {problem} `sweeper best {seen.name}` says what to try next; --force "
            "exports the best there is all the same"
        )
    return best


def chosen(seen: StudyView, number: int) -> TrialView:
    """The complete trial of that number; raises ExportError where it has no adapter of its own."""
    found = [trial for trial in seen.trials if trial.number == number]
    if not found:
        raise ExportError(f"{seen.name!r} has the trials 0 to {len(seen.trials) - 1}, but not {number}")
    if found[0].state != "COMPLETE":
        raise ExportError(f"only a complete trial has an adapter, but trial {number} is {found[0].state}")
    if found[0].same_as is not None:
        raise ExportError(
            f"trial {number} is trial {found[0].same_as} again and has no adapter of its own; export that"
        )
    return found[0]
