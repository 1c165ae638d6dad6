"""The typed configuration: every key, its type and its limits.

The defaults stand in conf/, each with a comment on its effect; none is repeated here, so a key
that conf/ lacks is an error and not a silent second default.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from sweeper.config.space import Parameter, Range, Scalar, Space, values_of
from sweeper.config.teaching import DataSection, PromptSection, Section, TaskSection
from sweeper.errors import ConfigError
from sweeper.paths import NAME_PATTERN
from sweeper.trial import (
    Alpha,
    BatchSize,
    Beta,
    Dropout,
    Epochs,
    LearningRate,
    LoraPlusRatio,
    MaxGradNorm,
    Rank,
    Rhythm,
    Schedule,
    Seed,
    TargetModules,
    TrialParams,
    WarmupRatio,
    WeightDecay,
)

Name = Annotated[str, Field(pattern=NAME_PATTERN)]  # becomes a path


class StudySection(Section):
    name: Name
    description: str


class StoreSection(Section):
    home: str
    keep_adapters: Annotated[int, Field(ge=1)]


class ModelSection(Section):
    name: Name
    path: str | None
    revision: str | None
    gguf_package: str | None
    quant: Literal["nf4", "none"]
    dtype: Literal["auto", "float32", "bfloat16"]
    trust_remote_code: bool
    config: dict[str, Any] | None


class GpuSection(Section):
    name: Name
    card: str | None
    memory_gib: Annotated[float, Field(gt=0)] | None
    price_usd_per_hour: Annotated[float, Field(ge=0)] | None


class LoraSection(Section):
    rank: Rank
    alpha: Alpha | None
    alpha_ratio: Alpha
    rslora: bool
    target_modules: TargetModules
    dropout: Dropout
    lora_plus_ratio: LoraPlusRatio


class TrainSection(Section):
    examples: Annotated[int, Field(ge=1)] | None
    epochs: Epochs
    batch_size: BatchSize
    learning_rate: LearningRate
    weight_decay: WeightDecay
    beta1: Beta
    beta2: Beta
    max_grad_norm: MaxGradNorm
    schedule: Schedule
    warmup_ratio: WarmupRatio
    seed: Seed


class EvaluationSection(Section):
    count: Annotated[int, Field(ge=1, le=100_000)]
    rows: Annotated[int, Field(ge=1)] | None


class ObjectiveSection(Section):
    metric: Literal["accuracy", "macro_f1", "exact_match", "token_f1"]
    value: Literal["best", "last"]


class SearchSection(Section):
    trials: Annotated[int, Field(ge=1)]
    seed: Seed
    space: Space
    enqueue: list[dict[str, Scalar]]
    warm_start: Name | None
    warm_start_trials: Annotated[int, Field(ge=1)]
    duplicates: Literal["reuse", "train"]
    deterministic: bool
    max_rejections: Annotated[int, Field(ge=0)]
    lease_s: Annotated[float, Field(ge=1)]


class TPESection(Section):
    name: Literal["tpe"]
    startup_trials: Annotated[int, Field(ge=0)]


class GPSection(Section):
    name: Literal["gp"]
    startup_trials: Annotated[int, Field(ge=1)]


class RandomSection(Section):
    name: Literal["random"]


class GridSection(Section):
    name: Literal["grid"]
    points: Annotated[int, Field(ge=1)]


class CmaEsSection(Section):
    name: Literal["cmaes"]
    startup_trials: Annotated[int, Field(ge=1)]
    population_size: Annotated[int, Field(ge=4)] | None


class NSGAIISection(Section):
    name: Literal["nsgaii"]
    population_size: Annotated[int, Field(ge=2)]


class QMCSection(Section):
    name: Literal["qmc"]


SamplerSection = Annotated[
    TPESection | GPSection | RandomSection | GridSection | CmaEsSection | NSGAIISection | QMCSection,
    Field(discriminator="name"),
]


class _QuantileSection(Section):
    startup_trials: Annotated[int, Field(ge=0)]
    warmup_evaluations: Annotated[int, Field(ge=0)]


class MedianSection(_QuantileSection):
    name: Literal["median"]


class PercentileSection(_QuantileSection):
    name: Literal["percentile"]
    percentile: Annotated[float, Field(gt=0, lt=100)]


class PatientSection(_QuantileSection):
    name: Literal["patient"]
    patience: Annotated[int, Field(ge=0)]
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _RungsSection(Section):
    min_evaluations: Annotated[int, Field(ge=1)]
    reduction_factor: Annotated[int, Field(ge=2)]


class SuccessiveHalvingSection(_RungsSection):
    name: Literal["successive-halving"]


class HyperbandSection(_RungsSection):
    name: Literal["hyperband"]


class NoPrunerSection(Section):
    name: Literal["none"]


PrunerSection = Annotated[
    MedianSection | PercentileSection | PatientSection | SuccessiveHalvingSection | HyperbandSection | NoPrunerSection,
    Field(discriminator="name"),
]


class EngineSection(Section):
    slots: Annotated[int, Field(ge=1, le=256)]
    chunk_tokens: Annotated[int, Field(ge=16)]
    gradient_checkpointing: Literal["auto", True, False]
    threads: Annotated[int, Field(ge=1)] | None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class OptimizerSection(Section):
    state: Literal["device", "host", "8bit"]


class MemorySection(Section):
    backend: Literal["auto", "tensors"]
    budget_gib: Annotated[float, Field(gt=0)] | None
    reserve_gib: Annotated[float, Field(ge=0)]
    margin: Annotated[float, Field(ge=0, le=1)]
    watch_s: Annotated[float, Field(gt=0, le=60)]
    wait_s: Annotated[float, Field(ge=0)]
    rehearse: Literal["auto", True, False]


class CheckpointSection(Section):
    every_s: Annotated[float, Field(gt=0)]
    max_gib: Annotated[float, Field(ge=0)]


class Config(Section):
    """One study, whole."""

    study: StudySection
    store: StoreSection
    model: ModelSection
    data: DataSection
    task: TaskSection
    prompt: PromptSection
    lora: LoraSection
    train: TrainSection
    evaluation: EvaluationSection
    objective: ObjectiveSection
    search: SearchSection
    sampler: SamplerSection
    pruner: PrunerSection
    gpu: GpuSection
    engine: EngineSection
    optimizer: OptimizerSection
    memory: MemorySection
    checkpoint: CheckpointSection

    def trial_params(self, sampled: dict[str, object]) -> TrialParams:
        """The fixed values of `lora` and `train` with the sampled ones in their place.

        Raises:
            pydantic.ValidationError: where a value is outside its limits.
        """
        names = TrialParams.model_fields
        fixed = {**self.lora.model_dump(), **self.train.model_dump()}
        values = {**fixed, **sampled}
        # A sampled ratio wins over a fixed alpha; a sampled alpha over a fixed ratio.
        is_ratio = "alpha_ratio" in sampled or values["alpha"] is None
        if is_ratio and "alpha" not in sampled:
            values["alpha"] = values["rank"] * values["alpha_ratio"]
        return TrialParams.model_validate({name: values[name] for name in names})

    def for_trial(self, sampled: dict[str, object]) -> Config:
        """The configuration of one trial alone: its own values of `lora` and `train`, and nothing left to choose."""
        params = self.trial_params(sampled).model_dump()
        lora = {name: params.get(name, value) for name, value in self.lora.model_dump().items()}
        lora["alpha_ratio"] = params["alpha"] / params["rank"]
        train = {name: params.get(name, value) for name, value in self.train.model_dump().items()}
        count = self.evaluations(self.trial_params(sampled))
        return self.model_copy(
            update={
                "lora": LoraSection.model_validate(lora),
                "train": TrainSection.model_validate(train),
                "evaluation": self.evaluation.model_copy(update={"count": count}),
                "search": self.search.model_copy(
                    update={"trials": 1, "space": {name: [value] for name, value in sampled.items()}, "enqueue": []}
                ),
            }
        )

    def rhythm(self, params: TrialParams, train_rows: int) -> Rhythm:
        """The steps and evaluations of a trial over `train_rows` rows."""
        return Rhythm(
            interval_examples=self.interval_examples(train_rows),
            evaluations=self.evaluations(params),
            batch_size=params.batch_size,
        )

    def interval_examples(self, train_rows: int) -> int:
        """Training examples from one evaluation to the next; rounded up.

        Raises:
            ConfigError: if there are not as many examples as evaluations.
        """
        examples = self.train.examples or math.ceil(self.train.epochs * train_rows)
        if examples < self.evaluation.count:
            raise ConfigError(
                f"evaluation.count: at most as many evaluations fit as there are training examples, but got "
                f"{self.evaluation.count} for train.epochs={self.train.epochs!r} of {train_rows} rows"
            )
        return math.ceil(examples / self.evaluation.count)

    def evaluations(self, params: TrialParams) -> int:
        """How often a trial is evaluated: a longer trial more often, so that all are at the same examples."""
        if self.train.examples is not None:
            return self.evaluation.count
        return round(self.evaluation.count * params.epochs / self.train.epochs)

    def most_evaluations(self) -> int:
        """The evaluations of the longest trial that the space allows."""
        searched: Parameter | None = self.search.space.get("epochs")
        if searched is None or self.train.examples is not None:
            return self.evaluation.count
        longest = searched.high if isinstance(searched, Range) else max(map(float, values_of(searched) or [0.0]))
        return max(self.evaluation.count, round(self.evaluation.count * longest / self.train.epochs))


# What makes two launches the same study. Everything else may change between them.
IDENTITY = (
    "model",
    "data",
    "task",
    "prompt",
    "lora",
    "train",
    "evaluation",
    "objective",
    "sampler",
    "pruner",
    "optimizer",
)
