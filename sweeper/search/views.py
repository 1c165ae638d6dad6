"""A study as it stands in the storage, for whoever looks at it; reading it changes nothing.

A trial's state is what became of it: COMPLETE where it ran to its planned end, PRUNED where a
hyperparameter stopped it, whatever its sampler had to be told (see `sweeper.search.samplers`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.config.sampling import GridSection
from sweeper.config.schema import Config
from sweeper.config.space import grid_size
from sweeper.errors import StoreError, unknown
from sweeper.paths import Home, StudyPaths
from sweeper.search.ended import ENDED, holds
from sweeper.search.storage import open_storage
from sweeper.trial import Reason

TOLD = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_TOLD_NAMES = frozenset(state.name for state in TOLD)
# Attributes of a study: the rows that it holds back for confirmation, and what came of that.
HELD_BACK, CONFIRMATION = "confirmation_rows", "confirmation"


@dataclass(frozen=True)
class TrialView:
    """One trial."""

    number: int
    state: str
    params: dict[str, Any]
    value: float | None
    metrics: dict[str, float]  # of the evaluation that gave the value, with their standard errors
    curve: tuple[dict[str, float], ...]  # every evaluation: examples seen, metrics, standard errors
    duration_s: float | None
    reason: str | None
    detail: str | None
    examples_seen: int | None
    is_informed: bool
    evaluations: tuple[float, ...]  # the objective's metric alone
    constraints: dict[str, float]  # each holds where it is not above zero
    same_as: int | None  # the earlier trial whose result this one has, being the same configuration
    start: str | None  # where its configuration came from, if not from the sampler alone
    company: list[dict[str, Any]]  # `sweeper.trial.Company`: beside whom it trained
    train_tokens: int | None = None
    solo_s: float | None = None  # device seconds that what it did would have taken alone; an estimate
    spent_s: float | None = None  # device seconds of the study until it was told
    spent_usd: float | None = None  # and their dollars, where there is a price
    is_minimized: bool = False  # whether a lower value is better
    told_at: float | None = None  # when it ended, in seconds since 1970
    # What its steps took: train_s, vram_peak_gib, vram_predicted_gib, pack_size_mean, pack_size_max; empty where it has
    # not trained.
    took: dict[str, Any] = field(default_factory=dict)

    @property
    def vram_peak_gib(self) -> float | None:
        """Of its largest step, with whoever trained beside it."""
        return self.took.get("vram_peak_gib")

    @property
    def vram_predicted_gib(self) -> float | None:
        """What was foretold of that step."""
        return self.took.get("vram_predicted_gib")

    @property
    def merit(self) -> float | None:
        """The value, turned so that higher is better."""
        return -self.value if self.value is not None and self.is_minimized else self.value

    @property
    def is_told(self) -> bool:
        """Whether the trial has ended."""
        return self.state in _TOLD_NAMES

    @property
    def is_rejected(self) -> bool:
        """Whether a forecast ended it before it was trained; such trials come on top of the total."""
        return self.is_told and self.reason == Reason.INFEASIBLE and not self.examples_seen

    @property
    def counts(self) -> bool:
        """Whether the trial has ended, and so counts towards the total."""
        return self.is_told and not self.is_rejected

    @property
    def is_trained(self) -> bool:
        """Whether the trial has an outcome of its own: no repeat, none that a defect ended."""
        return self.counts and self.same_as is None and self.state != TrialState.FAIL.name

    @property
    def is_feasible(self) -> bool:
        """Whether every constraint holds."""
        return all(value <= 0 for value in self.constraints.values())

    def standard_error(self, metric: str) -> float | None:
        """Of the value; None where there is none."""
        return self.metrics.get(f"{metric}_se")

    def noise(self, other: TrialView, metric: str) -> float | None:
        """One standard error of the difference of two values; None where either has none.

        The errors of both are taken as independent; they share their rows, so the true one is smaller.
        """
        own, others = self.standard_error(metric), other.standard_error(metric)
        return math.hypot(own, others) if own is not None and others is not None else None

    @classmethod
    def of(cls, trial: FrozenTrial, is_minimized: bool) -> TrialView:
        attributes = trial.user_attrs
        reason = attributes.get("reason")
        # A sampler that reads complete trials alone was told of one that was stopped as if it were complete.
        is_stopped = trial.state == TrialState.COMPLETE and reason is not None
        is_complete = trial.state == TrialState.COMPLETE and not is_stopped
        curve = tuple(attributes.get("curve", ()))
        return cls(
            number=trial.number,
            state=TrialState.PRUNED.name if is_stopped else trial.state.name,
            params=dict(trial.params),
            value=trial.value if is_complete else None,
            metrics=dict(attributes.get("metrics", {})),
            curve=curve,
            duration_s=attributes.get("duration_s"),
            reason=reason,
            detail=attributes.get("detail"),
            examples_seen=attributes.get("examples_seen"),
            is_informed=bool(attributes.get("is_informed", False)),
            evaluations=tuple(value for _, value in sorted(trial.intermediate_values.items())[: len(curve) or None]),
            constraints=dict(trial.constraints),
            same_as=attributes.get("same_as"),
            start=attributes.get("start"),
            company=attributes.get("company", []),
            train_tokens=attributes.get("train_tokens"),
            solo_s=attributes.get("solo_s"),
            spent_s=attributes.get("spent_s"),
            spent_usd=attributes.get("spent_usd"),
            is_minimized=is_minimized,
            took=dict(attributes.get("took", {})),
            told_at=trial.datetime_complete.timestamp() if trial.datetime_complete is not None else None,
        )


def views_of(study: optuna.Study, told: dict[int, TrialView] | None = None) -> list[TrialView]:
    """All trials of a study.

    Args:
        told: for whoever looks again and again: the trials that had ended at earlier looks, which do not change any
            more; those that have ended since are added.
    """
    is_minimized = study.direction == StudyDirection.MINIMIZE
    told = told if told is not None else {}
    found = []
    for trial in study.get_trials(deepcopy=False):
        if (seen := told.get(trial.number)) is None:
            seen = TrialView.of(trial, is_minimized)
            if seen.is_told:
                told[trial.number] = seen
        found.append(seen)
    return found


@dataclass(frozen=True)
class StudyView:
    """One study."""

    name: str
    trials: list[TrialView]
    attributes: dict[str, Any]

    @property
    def ranked(self) -> list[TrialView]:
        """The trials that may win, the best value first."""
        return ranked(self.trials)

    @property
    def infeasible(self) -> list[TrialView]:
        """The complete trials that break a constraint and were trained themselves, the best value first."""
        found = [t for t in self.trials if t.merit is not None and not t.is_feasible and t.same_as is None]
        return sorted(found, key=lambda trial: (-(trial.merit or 0.0), trial.number))

    def finalists(self, top: int) -> list[TrialView]:
        """The best trials of `top` different configurations."""
        found: list[TrialView] = []
        for trial in self.ranked:
            if len(found) < top and all(trial.params != other.params for other in found):
                found.append(trial)
        return found

    @property
    def confirmation(self) -> dict[str, Any] | None:
        """What came of confirming the best; None where other trials are the best by now, or nothing was confirmed."""
        found: dict[str, Any] | None = self.attributes.get(CONFIRMATION)
        if found is None or [trial.number for trial in self.finalists(found["top"])] != found["finalists"]:
            return None
        return found

    @property
    def best(self) -> TrialView | None:
        """The trial that confirmation chose; without one that with the best value."""
        confirmation, ranked = self.confirmation, self.ranked
        if confirmation is not None:
            return next(trial for trial in ranked if trial.number == confirmation["chosen"])
        return next(iter(ranked), None)

    @property
    def runner_up(self) -> TrialView | None:
        """The next best of another configuration than the best: by its confirmation, or by its value."""
        best, confirmation = self.best, self.confirmation
        if best is None:
            return None
        others = [trial for trial in self.ranked if trial.params != best.params]
        if confirmation is not None:
            order = [one["trial"] for one in confirmation["candidates"]]
            others = [trial for number in order for trial in others if trial.number == number] or others
        return next(iter(others), None)

    def must_be_confirmed(self, config: Config) -> bool:
        """Whether the best trials have yet to be confirmed; without rows held back for it there is nothing to do."""
        is_due = config.confirmation.top > 0 and self.attributes.get(HELD_BACK, 0) > 0
        return is_due and bool(self.ranked) and self.confirmation is None

    @property
    def rejections(self) -> int:
        """Asks that a forecast rejected."""
        return sum(trial.is_rejected for trial in self.trials)

    def counts(self) -> dict[str, int]:
        """Trials by state, states that do not occur left out."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in sorted(set(states))}

    def summary(self) -> str:
        """The counts in words."""
        counts = self.counts()
        if self.rejections:
            counts["PRUNED"] -= self.rejections
        words = [f"{count} {state.lower()}" for state, count in counts.items() if count]
        if self.rejections:
            words.append(f"{self.rejections} infeasible, not trained")
        return ", ".join(words) or "no trials yet"

    def ties(self, metric: str) -> list[TrialView]:
        """The trials that noise may have kept from winning: within one standard error of the difference.

        There are none where the metric has no standard error. As `TrialView.noise` is, the list is long.
        (The one-standard-error rule: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 7.10.)
        """
        best = self.best
        if best is None or best.merit is None:
            return []
        found = []
        for trial in self.ranked:
            noise = best.noise(trial, metric)
            if trial.number == best.number or trial.same_as == best.number or noise is None:
                continue
            if best.merit - (trial.merit or 0.0) <= noise:
                found.append(trial)
        return found

    @property
    def pareto(self) -> list[TrialView]:
        """The trials that no other one beats in value without taking longer alone, the best value first."""
        front: list[TrialView] = []
        priced = [trial for trial in self.ranked if trial.solo_s is not None and trial.same_as is None]
        for trial in sorted(priced, key=lambda one: (-(one.merit or 0.0), one.solo_s or 0.0, one.number)):
            if not front or (trial.solo_s or 0.0) < (front[-1].solo_s or 0.0):
                front.append(trial)
        return front


def examples_of(trials: Iterable[TrialView]) -> int:
    """The training examples that the trials that have ended have seen: the step of a study's own metrics."""
    return sum(trial.examples_seen or 0 for trial in trials if trial.is_told and trial.same_as is None)


def ranked(trials: Sequence[TrialView]) -> list[TrialView]:
    """The complete and feasible trials, the best first; of equals those that were trained, and the earlier, first."""
    found = [trial for trial in trials if trial.value is not None and trial.is_feasible]
    return sorted(found, key=lambda trial: (-(trial.merit or 0.0), trial.same_as is not None, trial.number))


def configurations(config: Config) -> int | None:
    """How many configurations there are, where the sampler visits each once."""
    if isinstance(config.sampler, GridSection):
        return grid_size(config.search.space, config.sampler.points)
    return None


def is_at_total(trials: Sequence[TrialView], total: int, configurations: int | None) -> bool:
    """Whether a study has all its trials: its total, or every configuration that there is."""
    told = sum(trial.is_told for trial in trials)
    return sum(trial.counts for trial in trials) >= total or (configurations is not None and told >= configurations)


def is_finished(study: StudyView, config: Config) -> bool:
    """Whether a study has its total and its winner has been scored on the test split; or has ended before, for good."""
    ended = study.attributes.get(ENDED)
    if ended is not None and ended["is_closed"] and holds(ended, config):
        return True
    best = study.best
    is_tested = best is None or study.attributes.get("test", {}).get("trial") == best.number
    is_whole = is_at_total(study.trials, config.search.trials, configurations(config))
    return is_whole and is_tested and "baseline" in study.attributes and not study.must_be_confirmed(config)


def kept_adapters(study: StudyView, paths: StudyPaths, config: Config) -> list[int]:
    """The trials whose adapters are to stay, of those that have theirs on the disk, or may have it on another one.

    These are the best `store.keep_adapters` and the winner; in a study that is to be confirmed also all that may be,
    until the winner has been scored on the test split. While no trial keeps to the constraints, it is the best of those
    that break them.
    """
    best_first = study.ranked or study.infeasible[:1]
    best, is_shared = study.best, paths.home.is_on_server
    there = (trial.number for trial in best_first if is_shared or paths.adapter(trial.number).is_dir())
    wanted = set(islice(there, config.store.keep_adapters))  # no further: there may be a thousand
    if best is not None:
        wanted.add(best.number)
        is_tested = study.attributes.get("test", {}).get("trial") == best.number
        if study.attributes.get(HELD_BACK, 0) > 0 and (not is_tested or study.must_be_confirmed(config)):
            wanted |= {trial.number for trial in study.finalists(config.confirmation.top)}
    kept = [trial.number for trial in best_first if trial.number in wanted]
    return [number for number in kept if is_shared or paths.adapter(number).is_dir()]


def study_names(home: Home) -> list[str]:
    """The studies in the store.

    Raises:
        StoreError: if there is no store, or nothing in it.
    """
    return _names(_existing_storage(home))


def _existing_storage(home: Home) -> optuna.storages.RDBStorage:
    if not home.has_optuna:
        if home.root.is_dir():
            raise StoreError(f"no study in {home.root} has asked for a trial yet; `sweeper list` says what is there")
        raise StoreError(f"there is no store at {home.root}; launch a study there, or set SWEEPER_HOME")
    return open_storage(home)


def _names(storage: optuna.storages.BaseStorage) -> list[str]:
    return list(optuna.study.get_all_study_names(storage))


def read(storage: optuna.storages.BaseStorage, name: str) -> StudyView:
    """Reads a study that the storage has."""
    study = optuna.load_study(study_name=name, storage=storage)
    return StudyView(name=name, trials=views_of(study), attributes=study.user_attrs)


def begun(home: Home, name: str) -> StudyView | None:
    """A study that has measured something; one that has not binds nobody to its settings and its splits."""
    if not home.has_optuna or name not in study_names(home):
        return None
    seen = view(home, name)
    return seen if seen.trials or "baseline" in seen.attributes else None


def view(home: Home, name: str) -> StudyView:
    """Reads a study.

    Raises:
        StoreError: if there is none of that name.
    """
    storage = _existing_storage(home)
    names = _names(storage)
    if name not in names:
        raise StoreError(f"{unknown('study', name, names)} (store: {home.root})")
    return read(storage, name)
