"""The search: one Optuna study, asked and told by hand.

What this keeps, beyond what Optuna does by itself:

- Optuna's step is the evaluation's index, which every trial reaches at the same number of training
  examples, so that pruners compare like with like.
- A trial that a hyperparameter stopped is PRUNED with a reason; FAIL is for defects alone.
- An interrupted trial goes back to WAITING and is asked again under its own number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeper.config.schema import Config
from sweeper.config.space import INTEGERS, Range, Scalar
from sweeper.errors import StoreError, unknown
from sweeper.paths import Home
from sweeper.trial import Reason

TOLD = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
LOCK_WAIT_S = 60  # how long a writer waits for another to leave SQLite
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Asked:
    """A configuration to train: sampled values under a number that is its own for ever."""

    number: int
    params: dict[str, Any]
    is_informed: bool
    crashes: int


def _storage(home: Home) -> optuna.storages.RDBStorage:
    try:
        return optuna.storages.RDBStorage(home.optuna_url, engine_kwargs={"connect_args": {"timeout": LOCK_WAIT_S}})
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StoreError(
            f"{home.optuna_file} must be Optuna's SQLite store, but it cannot be opened: {error}"
        ) from error


def distribution(name: str, parameter: list[Scalar] | Range) -> BaseDistribution:
    """Optuna's form of one parameter of the space."""
    if isinstance(parameter, list):
        return CategoricalDistribution(parameter)
    if name in INTEGERS:
        step = 1 if parameter.step is None else int(parameter.step)
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def sampler(config: Config, trials: int) -> optuna.samplers.BaseSampler:
    """The configured sampler; a resumed study draws on from another seed than it began with."""
    seed = config.search.seed + trials
    if config.sampler.name == "tpe":
        return optuna.samplers.TPESampler(
            n_startup_trials=config.sampler.startup_trials, multivariate=True, constant_liar=True, seed=seed
        )
    return optuna.samplers.RandomSampler(seed=seed)


def pruner(config: Config) -> optuna.pruners.BasePruner:
    """The configured pruner."""
    if config.pruner.name == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=config.pruner.startup_trials, n_warmup_steps=config.pruner.warmup_evaluations
        )
    return optuna.pruners.NopPruner()


class Search:
    """Asks and tells one study, which is created if it does not exist yet."""

    def __init__(self, home: Home, config: Config) -> None:
        self._config = config
        self._study = optuna.create_study(
            storage=_storage(home),
            study_name=config.study.name,
            direction="maximize",
            pruner=pruner(config),
            load_if_exists=True,
        )
        self._study.sampler = sampler(config, len(self._study.get_trials(deepcopy=False)))
        self._distributions = {name: distribution(name, parameter) for name, parameter in config.search.space.items()}
        self._running: dict[int, optuna.Trial] = {}

    @property
    def told(self) -> int:
        """Trials that count towards the total."""
        return len(self._study.get_trials(deepcopy=False, states=TOLD))

    @property
    def attributes(self) -> dict[str, Any]:
        """What the study remembers beside its trials."""
        return dict(self._study.user_attrs)

    def remember(self, key: str, value: Any) -> None:
        """Stores a JSON value with the study."""
        self._study.set_user_attr(key, value)

    def requeue_orphans(self) -> list[int]:
        """Sends trials back to the queue that a dead worker left RUNNING; only for the study's one worker."""
        orphans = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in orphans:
            self._set_waiting(trial)
        return [trial.number for trial in orphans]

    def ask(self) -> Asked | None:
        """The next configuration, interrupted ones first; None where the total is reached or in flight."""
        if self.told + len(self._running) >= self._config.search.trials:
            return None
        finished = len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
        trial = self._study.ask(self._distributions)
        self._running[trial.number] = trial
        if "is_informed" not in trial.user_attrs:
            is_informed = self._config.sampler.name == "tpe" and finished >= self._config.sampler.startup_trials
            trial.set_user_attr("is_informed", is_informed)
        return Asked(
            number=trial.number,
            params=dict(trial.params),
            is_informed=bool(trial.user_attrs["is_informed"]),
            crashes=int(trial.user_attrs.get("crashes", 0)),
        )

    def report(self, number: int, evaluation: int, scores: dict[str, float], may_prune: bool) -> bool:
        """Reports an evaluation; True if the pruner ends the trial. A repeated report is skipped."""
        trial = self._running[number]
        if evaluation not in self._frozen(trial).intermediate_values:
            trial.report(scores[self._config.objective.metric], step=evaluation)
        return may_prune and trial.should_prune()

    def complete(self, number: int, value: float, record: dict[str, Any]) -> None:
        """Tells a trial that ran to its planned end."""
        self._record(number, record)
        self._study.tell(self._running.pop(number), value)

    def prune(self, number: int, reason: Reason, record: dict[str, Any]) -> None:
        """Tells a trial that its hyperparameters stopped."""
        self._record(number, {**record, "reason": reason.value})
        self._study.tell(self._running.pop(number), state=TrialState.PRUNED)

    def fail(self, number: int, detail: str) -> None:
        """Tells a trial that a defect ended."""
        self._record(number, {"reason": Reason.DEFECT.value, "detail": detail})
        self._study.tell(self._running.pop(number), state=TrialState.FAIL)

    def requeue(self, number: int, has_crashed: bool) -> None:
        """Puts a trial that is in flight back: it will be asked again under the same number."""
        trial = self._running.pop(number)
        if has_crashed:
            trial.set_user_attr("crashes", int(trial.user_attrs.get("crashes", 0)) + 1)
        self._set_waiting(self._frozen(trial))

    def views(self) -> list[TrialView]:
        """All trials, for display."""
        return [TrialView.of(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _record(self, number: int, record: dict[str, Any]) -> None:
        for key, value in record.items():
            self._running[number].set_user_attr(key, value)

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self._study._storage.get_trial(trial._trial_id)

    def _set_waiting(self, trial: FrozenTrial) -> None:
        # Optuna's public interface has no way back from RUNNING; its storages allow it.
        self._study._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)


@dataclass(frozen=True)
class TrialView:
    """One trial as it stands in the storage."""

    number: int
    state: str
    params: dict[str, Any]
    value: float | None
    metrics: dict[str, float]
    duration_s: float | None
    reason: str | None
    detail: str | None
    examples_seen: int | None
    is_informed: bool
    evaluations: tuple[float, ...]

    @property
    def is_told(self) -> bool:
        """Whether the trial has ended, and so counts towards the total."""
        return self.state in {state.name for state in TOLD}

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialView:
        attributes = trial.user_attrs
        return cls(
            number=trial.number,
            state=trial.state.name,
            params=dict(trial.params),
            value=trial.value if trial.state == TrialState.COMPLETE else None,
            metrics=dict(attributes.get("metrics", {})),
            duration_s=attributes.get("duration_s"),
            reason=attributes.get("reason"),
            detail=attributes.get("detail"),
            examples_seen=attributes.get("examples_seen"),
            is_informed=bool(attributes.get("is_informed", False)),
            evaluations=tuple(value for _, value in sorted(trial.intermediate_values.items())),
        )


@dataclass(frozen=True)
class StudyView:
    """One study as it stands in the storage; reading it changes nothing."""

    name: str
    trials: list[TrialView]
    attributes: dict[str, Any]

    @property
    def best(self) -> TrialView | None:
        return best_of(self.trials)

    def counts(self) -> dict[str, int]:
        """Trials by state, states that do not occur left out."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in sorted(set(states))}

    def summary(self) -> str:
        """The counts in words."""
        return ", ".join(f"{count} {state.lower()}" for state, count in self.counts().items()) or "no trials yet"


def best_of(trials: Sequence[TrialView]) -> TrialView | None:
    """The complete trial with the highest value, the earlier of equals; None where none is complete."""
    complete = [trial for trial in trials if trial.value is not None]
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def study_names(home: Home) -> list[str]:
    """The studies in the store.

    Raises:
        StoreError: if there is no store.
    """
    if not home.optuna_file.is_file():
        raise StoreError(f"there is no store at {home.root}; launch a study there, or set SWEEPER_HOME")
    return list(optuna.study.get_all_study_names(_storage(home)))


def view(home: Home, name: str) -> StudyView:
    """Reads a study.

    Raises:
        StoreError: if there is none of that name.
    """
    names = study_names(home)
    if name not in names:
        raise StoreError(f"{unknown('study', name, names)} (store: {home.root})")
    study = optuna.load_study(study_name=name, storage=_storage(home))
    trials = [TrialView.of(trial) for trial in study.get_trials(deepcopy=False)]
    return StudyView(name=name, trials=trials, attributes=study.user_attrs)
