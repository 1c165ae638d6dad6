"""How a search draws its trials and which of them it stops early: the options of `sampler` and `pruner`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.marks import Frozen
from sweeper.config.teaching import Section


class TPESection(Section):
    name: Frozen[Literal["tpe"]]
    startup_trials: Frozen[Annotated[int, Field(ge=0)]]


class GPSection(Section):
    name: Frozen[Literal["gp"]]
    startup_trials: Frozen[Annotated[int, Field(ge=1)]]


class RandomSection(Section):
    name: Frozen[Literal["random"]]


class GridSection(Section):
    name: Frozen[Literal["grid"]]
    points: Frozen[Annotated[int, Field(ge=1)]]


class CmaEsSection(Section):
    name: Frozen[Literal["cmaes"]]
    startup_trials: Frozen[Annotated[int, Field(ge=1)]]
    population_size: Frozen[Annotated[int, Field(ge=4)] | None]


class NSGAIISection(Section):
    name: Frozen[Literal["nsgaii"]]
    population_size: Frozen[Annotated[int, Field(ge=2)]]


class QMCSection(Section):
    name: Frozen[Literal["qmc"]]


SamplerSection = Annotated[
    TPESection | GPSection | RandomSection | GridSection | CmaEsSection | NSGAIISection | QMCSection,
    Field(discriminator="name"),
]


class _QuantileSection(Section):
    startup_trials: Frozen[Annotated[int, Field(ge=0)]]
    warmup_evaluations: Frozen[Annotated[int, Field(ge=0)]]


class MedianSection(_QuantileSection):
    name: Frozen[Literal["median"]]


class PercentileSection(_QuantileSection):
    name: Frozen[Literal["percentile"]]
    percentile: Frozen[Annotated[float, Field(gt=0, lt=100)]]


class PatientSection(_QuantileSection):
    name: Frozen[Literal["patient"]]
    patience: Frozen[Annotated[int, Field(ge=0)]]
    min_delta: Frozen[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class _RungsSection(Section):
    min_evaluations: Frozen[Annotated[int, Field(ge=1)]]
    reduction_factor: Frozen[Annotated[int, Field(ge=2)]]


class SuccessiveHalvingSection(_RungsSection):
    name: Frozen[Literal["successive-halving"]]


class HyperbandSection(_RungsSection):
    name: Frozen[Literal["hyperband"]]


class NoPrunerSection(Section):
    name: Frozen[Literal["none"]]


PrunerSection = Annotated[
    MedianSection | PercentileSection | PatientSection | SuccessiveHalvingSection | HyperbandSection | NoPrunerSection,
    Field(discriminator="name"),
]
