"""Optuna's samplers as this product uses them: asked and told, not optimised.

| sampler | learns from | infeasible asks are |
|---|---|---|
| tpe | complete and pruned trials | PRUNED with their constraint |
| gp | complete trials alone, so those that a hyperparameter stopped are told as complete | told the worst value |
| nsgaii, cmaes | complete trials | PRUNED, and so left out |
| random, grid, qmc | nothing | PRUNED |

What the Gaussian process does otherwise, `tests/benchmarks/stopped_trials.py` shows: told PRUNED, 31 to 34 of 40 trials
were pruned, and up to 28 asks came back to where one had been; told as complete, 9 to 17, and none.

A sampler is made anew for each ask, seeded by the study's seed and the trial's number: what a study
asks depends on its trials, and not on how often it was interrupted.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from sweeper.config.sampling import CmaEsSection, GPSection, GridSection, NSGAIISection, QMCSection, TPESection
from sweeper.config.schema import Config
from sweeper.config.space import INTEGERS, Parameter, Range, Scalar, grid_values, is_conditional, values_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def distribution(name: str, parameter: Parameter) -> BaseDistribution:
    """Optuna's form of one parameter of the space."""
    if not isinstance(parameter, Range):
        return CategoricalDistribution(values_of(parameter) or [])
    if name in INTEGERS:
        step = 1 if parameter.step is None else int(parameter.step)
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def distributions(config: Config) -> dict[str, BaseDistribution]:
    """Optuna's form of the space; in a grid every parameter is a choice."""
    space: Mapping[str, Parameter] = config.search.space
    if isinstance(config.sampler, GridSection):
        values: dict[str, list[Scalar]] = {n: grid_values(n, p, config.sampler.points) for n, p in space.items()}
        return {name: CategoricalDistribution(choices) for name, choices in values.items()}
    return {name: distribution(name, parameter) for name, parameter in space.items()}


def sampler(config: Config, number: int, parameter: str = "") -> BaseSampler:
    """The configured sampler, for the trial of that number; for one parameter, where that is drawn by itself."""
    section = config.sampler
    entropy = [config.search.seed, number, zlib.crc32(parameter.encode())]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    with warnings.catch_warnings():
        # TPE's groups and the exhaustive sampler are marked experimental; the contract tests stand on them.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if isinstance(section, TPESection):
            return TPESampler(
                n_startup_trials=section.startup_trials,
                multivariate=True,
                group=is_conditional(config.search.space),
                constant_liar=True,
                seed=seed,
            )
        if isinstance(section, GPSection):
            return GPSampler(n_startup_trials=section.startup_trials, seed=seed, warn_independent_sampling=False)
        if isinstance(section, GridSection):
            return _Grid(seed=seed)
        if isinstance(section, CmaEsSection):
            return _CmaEs(
                n_startup_trials=section.startup_trials,
                popsize=section.population_size,
                seed=seed,
                warn_independent_sampling=False,
            )
        if isinstance(section, NSGAIISection):
            return NSGAIISampler(population_size=section.population_size, seed=seed)
        if isinstance(section, QMCSection):  # one sequence for the whole study, so one seed
            made = _Sobol(
                scramble=True,
                seed=config.search.seed,
                independent_sampler=RandomSampler(seed=seed),
                warn_independent_sampling=False,
            )
            made.number = number
            return made
        return RandomSampler(seed=seed)


class _Grid(BruteForceSampler):  # type: ignore[misc]
    """Exhaustive search, conditions included, that leaves the end to us.

    Optuna's own ends `optimize` after the last configuration, which raises where nothing was optimised.
    """

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: optuna.trial.TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Nothing is to be done."""


class _Sobol(QMCSampler):  # type: ignore[misc]
    """A Sobol sequence whose points belong to the trials' numbers: an ask that is repeated uses up none."""

    number: int

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number


class _CmaEs(CmaEsSampler):  # type: ignore[misc]
    """CMA-ES, whose state lies in the storage as a pickle: of that, only what it consists of is loaded.

    So a store that comes from elsewhere cannot run code here.
    """

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: optuna.trial.TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As Optuna's, without its warning of constraints that it does not use: that is said when a study starts."""
        self._independent_sampler.after_trial(study, trial, state, values)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            parts = {k: v for k, v in trial.system_attrs.items() if k.startswith(self._attr_key_optimizer)}
            if parts:
                return _StateUnpickler(io.BytesIO(bytes.fromhex(self._concat_optimizer_attrs(parts)))).load()
        return None


class _StateUnpickler(pickle.Unpickler):
    _allowed = frozenset(
        {
            ("cmaes._cma", "CMA"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy.random._mt19937", "MT19937"),
            ("numpy.random._pickle", "__bit_generator_ctor"),
            ("numpy.random._pickle", "__randomstate_ctor"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"the state of CMA-ES consists of arrays, but it names {module}.{name}")
        return super().find_class(module, name)
