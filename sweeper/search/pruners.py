"""Optuna's pruners, with evaluations as their resource: a trial's first evaluation is step 1."""

from __future__ import annotations

import warnings
from collections.abc import Container

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

from sweeper.config.schema import (
    Config,
    HyperbandSection,
    MedianSection,
    PatientSection,
    PercentileSection,
    SuccessiveHalvingSection,
)


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
        return HyperbandPruner(section.min_evaluations, config.most_evaluations(), section.reduction_factor)
    return NopPruner()


class EarlierTrials(optuna.Study):  # type: ignore[misc]
    """A study as a pruner sees it that may look at the trials before `end` alone."""

    def __init__(self, study: optuna.Study, end: int) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._end = end

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [trial for trial in super().get_trials(deepcopy, states) if trial.number < self._end]
