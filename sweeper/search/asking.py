"""One Optuna study that is asked by several workers: under leases, and in turn.

A trial that is asked is never one too many, and never another worker's: see `sweeper.search.study` for what is kept.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.search.leases import Leases
from sweeper.search.pruners import pruner
from sweeper.search.samplers import sampler

WAIT_S = 0.05


@dataclass(frozen=True)
class Asked:
    """A configuration to train: sampled values under a number that is its own for ever."""

    number: int
    params: dict[str, Any]
    is_informed: bool
    crashes: int
    start: str | None  # where it came from, if not from the sampler alone


class AskedStudy(optuna.Study):  # type: ignore[misc]
    """A study whose trials are asked under a lease: a trial that is RUNNING always has one."""

    def __init__(self, config: Config, storage: optuna.storages.BaseStorage, leases: Leases) -> None:
        super().__init__(config.study.name, storage, pruner=pruner(config))
        self.config = config
        self.leases = leases

    @property
    def is_asking(self) -> AbstractContextManager[None]:
        """Of several workers one asks at a time, so that together they do not ask for more than the total."""
        return self.leases.exclusively(-self._study_id)

    def _pop_waiting_trial_id(self) -> int:
        """What `ask` begins with: a trial that waits, or else a new one that waits no longer than until here."""
        while True:
            waiting = self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.WAITING,))
            for trial in waiting:
                if not self.leases.acquire(trial._trial_id):
                    continue
                if self._storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
                    self.sampler = sampler(self.config, trial.number)
                    return int(trial._trial_id)
                self.leases.release(trial._trial_id)
            if waiting:  # whoever put it back has not let go of it yet, or was killed in between: a new one would be
                time.sleep(WAIT_S)  # one too many
                continue
            self._storage.create_new_trial(self._study_id, create_trial(state=TrialState.WAITING))


def create(storage: optuna.storages.BaseStorage, name: str, direction: str) -> None:
    """Makes a study where there is none; one of the other direction has measured nothing yet, and is made anew."""
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    if study.direction.name.lower() == direction:
        return
    if study.get_trials(deepcopy=False):
        raise ConfigError(f"objective.direction: the study {name!r} was begun with the other one, but has {direction}")
    optuna.delete_study(study_name=name, storage=storage)
    optuna.create_study(storage=storage, study_name=name, direction=direction)


def suggest(trial: optuna.Trial, name: str, parameter: BaseDistribution) -> Any:
    """The value that a trial gets of a parameter."""
    if isinstance(parameter, CategoricalDistribution):
        return trial.suggest_categorical(name, parameter.choices)
    if isinstance(parameter, IntDistribution):
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    assert isinstance(parameter, FloatDistribution)
    return trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
