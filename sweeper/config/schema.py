"""The typed configuration: every key, its type, its limits, and whether it may change while a study goes on.

The defaults stand in conf/, each with a comment on its effect; none is repeated here, so a key
that conf/ lacks is an error and not a silent second default.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from sweeper.config.cluster import ClusterSection
from sweeper.config.marks import Frozen, Live, Mark
from sweeper.config.sampling import PrunerSection, SamplerSection
from sweeper.config.space import Parameter, Range, Scalar, Space, values_of
from sweeper.config.teaching import DataSection, ObjectiveSection, PromptSection, Section, TaskSection
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
    Replay,
    Rhythm,
    Schedule,
    Seed,
    TargetModules,
    TrialParams,
    WarmupRatio,
    WeightDecay,
)

MOST_SEEDS = 50  # that a configuration is confirmed on
MOST_SLOTS, TRIALS_PER_SLOT = 16, 4  # of engine.slots=auto
Name = Annotated[str, Field(pattern=NAME_PATTERN)]  # becomes a path


class StudySection(Section):
    name: Frozen[Name]
    description: Live[str]
    folder: Live[str | None]  # what it says is frozen by its hash


class StoreSection(Section):
    home: Live[str]
    optuna: Live[str | None]
    patience_s: Live[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    keep_adapters: Live[Annotated[int, Field(ge=1)]]
    mirror: Live[Annotated[str, Field(min_length=1)] | None]


class MirrorSection(Section):
    every_s: Live[Annotated[float, Field(gt=0, le=86_400)]]


class TrackingSection(Section):
    uri: Live[str | None]
    experiment: Live[Annotated[str, Field(min_length=1, max_length=500)] | None]
    log_text: Live[bool]
    report: Live[bool]
    system_metrics: Live[bool]
    patience_s: Live[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class ModelSection(Section):
    name: Frozen[Name]
    path: Frozen[str | None]
    revision: Frozen[str | None]
    gguf_package: Frozen[str | None]
    quant: Frozen[Literal["nf4", "none"]]
    dtype: Frozen[Literal["auto", "float32", "bfloat16", "float16"]]
    trust_remote_code: Frozen[bool]
    config: Frozen[dict[str, Any] | None]


class GpuSection(Section):
    name: Live[Name]
    card: Live[str | None]
    memory_gib: Live[Annotated[float, Field(gt=0)] | None]
    bf16_tflops: Live[Annotated[float, Field(gt=0)] | None]
    billing: Live[Literal["on-demand", "spot", "owned", "free"]]
    price_usd_per_hour: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]
    spot_usd_per_hour: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]
    price_per: Live[Literal["gpu", "machine"]]
    price_source: Live[str | None]
    price_date: Live[Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None]
    boot_s: Live[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    disk_usd_per_hour: Live[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    purchase_usd: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]
    life_hours: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]
    tariff_usd_per_kwh: Live[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None]
    watts: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]


class BudgetSection(Section):
    """What a study may take; null is no limit."""

    usd: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]
    hours: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]
    trials: Live[Annotated[int, Field(ge=1)] | None]


class NeverSection(Section):
    name: Live[Literal["never"]]


class NoImprovementSection(Section):
    name: Live[Literal["no-improvement"]]
    trials: Live[Annotated[int, Field(ge=1)] | None]
    usd: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]


StopSection = Annotated[NeverSection | NoImprovementSection, Field(discriminator="name")]


class LoraSection(Section):
    rank: Frozen[Rank]
    alpha: Frozen[Alpha | None]
    alpha_ratio: Frozen[Alpha]
    rslora: Frozen[bool]
    target_modules: Frozen[TargetModules]
    module_sets: Frozen[dict[Name, TargetModules]]
    dropout: Frozen[Dropout]
    lora_plus_ratio: Frozen[LoraPlusRatio]

    def modules(self, chosen: Any) -> Any:
        """What a choice of target modules means: its set, where it is the name of one."""
        return self.module_sets.get(chosen, chosen) if isinstance(chosen, str) else chosen


class TrainSection(Section):
    examples: Frozen[Annotated[int, Field(ge=1)] | None]
    epochs: Frozen[Epochs]
    batch_size: Frozen[BatchSize]
    learning_rate: Frozen[LearningRate]
    weight_decay: Frozen[WeightDecay]
    beta1: Frozen[Beta]
    beta2: Frozen[Beta]
    max_grad_norm: Frozen[MaxGradNorm]
    schedule: Frozen[Schedule]
    warmup_ratio: Frozen[WarmupRatio]
    replay: Frozen[Replay]
    replay_text: Frozen[Annotated[str, Field(min_length=1)]]
    seed: Frozen[Seed]


class EvaluationSection(Section):
    count: Frozen[Annotated[int, Field(ge=1, le=100_000)]]
    rows: Frozen[Annotated[int, Field(ge=1)] | None]


BUNDLED = "bundled"


class RetentionSection(Section):
    """What is measured of the base's own abilities."""

    choices: Frozen[Annotated[str, Field(min_length=1)] | None]
    passages: Frozen[Annotated[str, Field(min_length=1)] | None]
    lm_eval: Frozen[list[Annotated[str, Field(min_length=1)]]]
    max_drop: Frozen[Annotated[float, Field(ge=0, le=1)]]
    max_rise: Frozen[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    sample: Frozen[Annotated[int, Field(ge=2)]]
    max_tokens: Frozen[Annotated[int, Field(ge=8)]]
    stop_wrecked: Frozen[bool]

    @property
    def is_on(self) -> bool:
        return self.choices is not None or self.passages is not None or bool(self.lm_eval)


class ConfirmationSection(Section):
    top: Frozen[Annotated[int, Field(ge=0, le=20)]]
    seeds: Frozen[Annotated[int, Field(ge=1, le=MOST_SEEDS)]]
    share: Frozen[Annotated[float, Field(gt=0, lt=1)]]


class SearchSection(Section):
    trials: Live[Annotated[int, Field(ge=1)]]
    seed: Frozen[Seed]
    space: Frozen[Space]
    enqueue: Frozen[list[dict[str, Scalar]]]
    warm_start: Frozen[str | None]
    warm_start_trials: Frozen[Annotated[int, Field(ge=1)]]
    duplicates: Live[Literal["reuse", "train"]]
    deterministic: Frozen[bool]
    max_rejections: Live[Annotated[int, Field(ge=0)]]
    lease_s: Live[Annotated[float, Field(ge=1)]]


class PreflightSection(Section):
    learning_curve: Live[bool]
    answer_s: Live[Annotated[float, Field(gt=0)]]


class EngineSection(Section):
    slots: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=256)],
        Mark(
            is_frozen=False,
            frozen_by="search.deterministic",
            reason="search.deterministic=true fixes how many trials are in flight at an ask",
        ),
    ]
    chunk_tokens: Live[Annotated[int, Field(ge=16)]]
    gradient_checkpointing: Live[Literal["auto", True, False]]
    threads: Live[Annotated[int, Field(ge=1)] | None]
    device: Live[Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]]


class OptimizerSection(Section):
    # Where the moments wait changes no result; how many bits they have does.
    state: Annotated[Literal["device", "host", "8bit"], Mark(is_frozen=True, alike=frozenset({"device", "host"}))]


class MemorySection(Section):
    backend: Frozen[Literal["auto", "tensors"]]
    budget_gib: Frozen[Annotated[float, Field(gt=0)] | None]
    reserve_gib: Frozen[Annotated[float, Field(ge=0)]]
    margin: Live[Annotated[float, Field(ge=0, le=1)]]
    watch_s: Live[Annotated[float, Field(gt=0, le=60)]]
    wait_s: Live[Annotated[float, Field(ge=0)]]
    rehearse: Live[Literal["auto", True, False]]


class CheckpointSection(Section):
    every_s: Live[Annotated[float, Field(gt=0)]]
    max_gib: Live[Annotated[float, Field(ge=0)]]


class Config(Section):
    """One study, whole."""

    study: StudySection
    store: StoreSection
    mirror: MirrorSection
    tracking: TrackingSection
    model: ModelSection
    data: DataSection
    task: TaskSection
    prompt: PromptSection
    lora: LoraSection
    train: TrainSection
    evaluation: EvaluationSection
    retention: RetentionSection
    objective: ObjectiveSection
    search: SearchSection
    confirmation: ConfirmationSection
    sampler: SamplerSection
    pruner: PrunerSection
    preflight: PreflightSection
    confirm: Live[bool]
    gpu: GpuSection
    cluster: ClusterSection
    budget: BudgetSection
    stop: StopSection
    on_finish: Live[Annotated[str, Field(min_length=1)] | None]
    engine: EngineSection
    optimizer: OptimizerSection
    memory: MemorySection
    checkpoint: CheckpointSection

    @property
    def most_slots(self) -> int:
        """The most trials that train together on a device: an ask does not know the results of those in flight."""
        if self.engine.slots != "auto":
            return self.engine.slots
        share = self.search.trials // TRIALS_PER_SLOT // (self.cluster.workers or 1)
        return max(1, min(MOST_SLOTS, share))

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
        values["target_modules"] = self.lora.modules(values["target_modules"])
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
