"""A trial while it trains, and what a step did to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sweeper.engine.bucket import AdapterState
from sweeper.engine.loss_scale import LossScale
from sweeper.trial import Company, Prediction, Rhythm, TrialParams


@dataclass(eq=False)  # one trial, one slot: compared by identity
class Slot:
    """What a trial is while it trains, apart from its tensors in the stack."""

    number: int
    params: TrialParams
    rhythm: Rhythm
    seed: int  # of the initial weights, the data order and the dropout
    subset: tuple[int, ...] | None = None  # the training rows that it sees; None: all of them
    step: int = 0
    train_tokens: int = 0
    supervised_tokens: int = 0
    duration_s: float = 0.0
    train_s: float = 0.0  # of that, in optimizer steps
    peak_bytes: int = 0  # the most that was held in one of them, by whoever trained
    predicted_bytes: int = 0  # what was foretold of that one
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best_evaluation: int | None = None
    best_adapter: AdapterState | None = None
    best_predictions: list[Prediction] | None = None  # of the validation rows, in their order
    company: list[Company] = field(default_factory=list)  # beside whom it trained
    loss_scale: LossScale = field(default_factory=LossScale)  # read and changed in float16 alone

    @property
    def is_finished(self) -> bool:
        return self.step >= self.rhythm.total_steps

    @property
    def is_at_evaluation(self) -> bool:
        """Whether the latest thing that happened to it is an evaluation."""
        return self.step > 0 and self.step == len(self.evaluations) * self.rhythm.steps_per_interval

    @property
    def is_due(self) -> bool:
        """Whether an evaluation comes next."""
        return self.rhythm.is_evaluation(self.step) and not self.is_at_evaluation

    @property
    def examples_seen(self) -> int:
        return self.rhythm.examples_at(self.step)


@dataclass(frozen=True)
class Tick:
    """What one tick did to one slot."""

    loss: float
    grad_norm: float
    learning_rate: float
    loss_scale: float | None = None  # in float16
    is_skipped: bool = False  # only because of that scale
    tokens: int = 0  # that the slot read in it

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and (math.isfinite(self.grad_norm) or self.is_skipped)
