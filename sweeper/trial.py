"""What one trial is: its hyperparameters, its schedule of evaluations, and how it ended.

Pure: no torch, no Optuna, no MLflow.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]
TARGET_PRESETS = ("all-linear", "attention", "mlp")


def is_pattern(target: str) -> bool:
    """Whether a choice of target modules is a regular expression, and no name."""
    return re.fullmatch(r"[\w.-]+", target) is None


def _targets(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value or (isinstance(value, tuple) and "" in value):
        raise ValueError("must name at least one module")
    if isinstance(value, str) and is_pattern(value):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"must be a preset, a name or a regular expression, but {error}") from None
    return value


TargetModules = Annotated[str | tuple[str, ...], AfterValidator(_targets)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, lt=10)]
LoraPlusRatio = Annotated[float, Field(ge=1, allow_inf_nan=False)]
WeightDecay = Annotated[float, Field(ge=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
MaxGradNorm = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BatchSize = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
WarmupRatio = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[float, Field(gt=0, le=10_000)]
Replay = Annotated[float, Field(ge=0, le=0.9)]


class Reason(StrEnum):
    """Why a trial ended before its planned end."""

    PRUNER = "pruner"
    INFEASIBLE = "infeasible"
    DIVERGED = "diverged"
    WRECKED = "wrecked"  # the base's own abilities
    DEFECT = "defect"


class RunKind(StrEnum):
    """The value of the MLflow tag `sweeper.kind`; only `trial` counts towards the total."""

    STUDY = "study"
    TRIAL = "trial"
    BASELINE = "baseline"
    CONFIRMATION = "confirmation"
    LEARNING_CURVE = "learning-curve"


class TrialParams(BaseModel):
    """Everything about one trial that a search may vary, with the limits of each value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    rank: Rank
    alpha: Alpha
    rslora: bool
    target_modules: TargetModules
    dropout: Dropout
    epochs: Epochs
    learning_rate: LearningRate
    lora_plus_ratio: LoraPlusRatio
    weight_decay: WeightDecay
    beta1: Beta
    beta2: Beta
    max_grad_norm: MaxGradNorm
    batch_size: BatchSize
    schedule: Schedule
    warmup_ratio: WarmupRatio
    replay: Replay

    @property
    def scale(self) -> float:
        """What B·A·x is multiplied with: alpha/r, or alpha/√r with rsLoRA (arXiv:2312.03732)."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


# The order is that of a run's name; the short form of each name is used there.
SHORT_NAMES = {
    "rank": "r",
    "alpha": "a",
    "alpha_ratio": "a/r",
    "learning_rate": "lr",
    "batch_size": "b",
    "weight_decay": "wd",
    "lora_plus_ratio": "l+",
    "warmup_ratio": "wu",
    "dropout": "do",
    "replay": "rp",
    "epochs": "e",
    "target_modules": "",
    "schedule": "",
}


def run_name(number: int, params: dict[str, object]) -> str:
    """A name that a person can read, such as `t07 r64 a128 lr2e-4`."""
    match params:
        case {"rank": int(rank), "alpha_ratio": float(ratio) | int(ratio)}:  # alpha itself is what one knows
            params = {name: value for name, value in params.items() if name != "alpha_ratio"} | {"alpha": rank * ratio}
    known = [name for name in SHORT_NAMES if name in params]
    words = [f"t{number:02d}"]
    for name in known + sorted(set(params) - set(known)):
        value = params[name]
        text = f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e") if name == "learning_rate" else f"{value}"
        if isinstance(value, float) and name != "learning_rate":
            text = f"{value:.3g}"
        words.append(SHORT_NAMES.get(name, f"{name}=") + text)
    return " ".join(words)


class Prediction(NamedTuple):
    """What was predicted for one row: a label or a written answer, and the probability that the model gave it.

    Attributes:
        confidence: of a label, among the labels; of a written answer, the geometric mean over its tokens; None where
            the task knows none.
    """

    text: str
    confidence: float | None = None


class Company(BaseModel):
    """Beside whom a trial trains, from one of its steps on, until there is a later one."""

    model_config = ConfigDict(frozen=True)

    step: int
    slots: tuple[tuple[int, int], ...]  # number and step of each trial, itself among them, in the order of the pack


class Rhythm(BaseModel):
    """When a trial steps and when it is evaluated.

    All trials of a study are evaluated at the same numbers of training examples seen, whatever
    their batch size: the batch before an evaluation is cut short where it would overshoot.
    """

    model_config = ConfigDict(frozen=True)

    interval_examples: Annotated[int, Field(ge=1)]
    evaluations: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]

    @property
    def steps_per_interval(self) -> int:
        return -(-self.interval_examples // self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_interval * self.evaluations

    def examples_at(self, step: int) -> int:
        """Training examples seen after `step` optimizer steps."""
        intervals, rest = divmod(step, self.steps_per_interval)
        return intervals * self.interval_examples + min(rest * self.batch_size, self.interval_examples)

    def is_evaluation(self, step: int) -> bool:
        """Whether an evaluation is due after `step` optimizer steps."""
        return step > 0 and step % self.steps_per_interval == 0
