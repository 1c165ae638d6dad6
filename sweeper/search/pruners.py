"""Optuna's pruners, with evaluations as their resource: a trial's first evaluation is step 1."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Container
from typing import Any

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import FrozenTrial, TrialState

from sweeper.config.sampling import (
    HyperbandSection,
    MedianSection,
    PatientSection,
    PercentileSection,
    SuccessiveHalvingSection,
)
from sweeper.config.schema import Config

_RUNG = "completed_rung_"  # where successive halving notes a trial's value at a rung, before it decides
_RUNGS = "rungs"  # which of them a trial had before each evaluation


def pruner(config: Config) -> BasePruner:
    """The configured pruner."""
    section = config.pruner
    if isinstance(section, PercentileSection):
        return PercentilePruner(section.percentile, section.startup_trials, section.warmup_evaluations + 1)
    if isinstance(section, MedianSection | PatientSection):
        median = MedianPruner(section.startup_trials, section.warmup_evaluations + 1)
        if isinstance(section, PatientSection):
            with warnings.catch_warnings():  # it is marked experimental; the contract tests stand on it
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return PatientPruner(median, section.patience, section.min_delta)
        return median
    if isinstance(section, SuccessiveHalvingSection):
        return SuccessiveHalvingPruner(section.min_evaluations, section.reduction_factor)
    if isinstance(section, HyperbandSection):
        made = HyperbandPruner(section.min_evaluations, config.most_evaluations(), section.reduction_factor)
        # It makes its brackets at its first decision, and until then shows samplers all trials as one: a process that
        # resumes a study would ask otherwise. With a fixed number of evaluations it needs no study for it.
        made._try_initialization(None)
        return made
    return NopPruner()


def should_prune(study: optuna.Study, trial: optuna.Trial, evaluation: int, end: int | None) -> bool:
    """The pruner's decision on a trial after an evaluation; the same again if a worker died over it.

    Args:
        end: only trials before this number are compared with; None: all.
    """
    frozen = copy.copy(study._storage.get_trial(trial._trial_id))
    # A worker that died may have come further than the checkpoint from which the trial goes on.
    frozen.intermediate_values = {s: value for s, value in frozen.intermediate_values.items() if s <= evaluation}
    before = _rungs_before(trial, frozen, evaluation)
    attributes = frozen.system_attrs.items()
    frozen.system_attrs = {key: v for key, v in attributes if not key.startswith(_RUNG) or key in before}
    seen = optuna.Study(study.study_name, _Others(study._storage, frozen.number, end), study.sampler, study.pruner)
    return bool(study.pruner.prune(seen, frozen))


def _rungs_before(trial: optuna.Trial, frozen: FrozenTrial, evaluation: int) -> list[str]:
    """The rungs that a trial had completed before this evaluation, noted before it is decided on."""
    if not isinstance(trial.study.pruner, SuccessiveHalvingPruner | HyperbandPruner):
        return []
    known: dict[str, list[str]] = frozen.user_attrs.get(_RUNGS, {})
    if str(evaluation) not in known:
        known = {**known, str(evaluation): [key for key in frozen.system_attrs if key.startswith(_RUNG)]}
        trial.set_user_attr(_RUNGS, known)
    return known[str(evaluation)]


class _Others:
    """A storage as a pruner is to see it: without the trial in question, and with states as they came about.

    A sampler may have been told that a trial which was stopped is complete; to a pruner it is a pruned one.
    """

    def __init__(self, storage: optuna.storages.BaseStorage, number: int, end: int | None) -> None:
        self._storage, self._number, self._end = storage, number, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = []
        for trial in self._storage.get_all_trials(study_id, deepcopy=deepcopy):
            if trial.number == self._number or (self._end is not None and trial.number >= self._end):
                continue
            if trial.state == TrialState.COMPLETE and trial.user_attrs.get("reason") is not None:
                trial = copy.copy(trial)  # the storage keeps its own
                trial.state = TrialState.PRUNED
            if states is None or trial.state in states:
                found.append(trial)
        return found
