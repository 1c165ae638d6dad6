"""AdamW over a pack: one update for all slots of a bucket, each with its own rates, decay, betas and clipping.

Every operation is on rows of the bucket's flat `(K, P)` buffers, with a `(K, 1)` column of values
beside them: what a slot gets depends on its own row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sweeper.engine.bucket import Bucket
from sweeper.engine.stack import AdapterStack
from sweeper.memory.formula import QUANTISED_BLOCK, SCRATCH_BUFFER_BYTES
from sweeper.trial import TrialParams

EPSILON = 1e-8  # AdamW's default in torch and in transformers' Trainer
BLOCK_VALUES = SCRATCH_BUFFER_BYTES // 4  # of a slot's values that are worked on at a time, in float32


@dataclass(frozen=True)
class SlotRates:
    """One slot's values for one step.

    Attributes:
        step: of AdamW, from 1.
        loss_scale: what its loss was multiplied with.
    """

    params: TrialParams
    learning_rate: float
    step: int
    loss_scale: float = 1.0


@lru_cache(maxsize=256)
def schedule_multipliers(schedule: str, warmup_steps: int, total_steps: int) -> tuple[float, ...]:
    """The learning rate of each step as a multiple of the peak, from transformers' own schedules."""
    from transformers import get_scheduler  # seconds of imports, which a trace of memory does without

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler: Any = get_scheduler(schedule, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
    multipliers = []
    for _ in range(total_steps):
        multipliers.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return tuple(multipliers)


@torch.no_grad()
def step(stack: AdapterStack, rates: Sequence[SlotRates]) -> list[float]:
    """Clips each slot's gradient and applies one AdamW step; a slot whose gradient is not finite is left as it was.

    The step happens whole or, where memory runs out, not at all: everything is allocated before the first weight or
    moment changes, for all buckets, and what follows works in place or in scratch of one block.

    Returns:
        The gradient norm of each slot before clipping; not finite where the slot was skipped.
    """
    steps = []
    first = 0
    for bucket in stack.buckets:
        steps.append(BucketStep(bucket, rates[first : first + bucket.slots]))
        first += bucket.slots
    norms = [float(norm) for step in steps for norm in step.norms.tolist()]
    scratch = shared_scratch(steps)
    try:
        for each in steps:
            each.stage(scratch)
        for each in steps:
            each.commit(scratch)
    finally:  # what a step that ran out of memory has staged is memory too
        for each in steps:
            each.moments.forget()
    return norms


def shared_scratch(steps: Sequence[BucketStep]) -> list[Tensor]:
    """Flat buffers that are large enough for a block of any bucket."""
    largest = max(steps, key=lambda step: step.slots * step.width)
    count = max(4 if step.moments.needs_scratch else 2 for step in steps)
    return [largest.grad.new_empty(largest.slots * largest.width) for _ in range(count)]


class BucketStep:
    """One step of a bucket, with all that it allocates.

    8-bit moments cannot be changed in place: the new ones are staged, and so are the new weights, in the gradient's
    memory; they are put in their places when those of all buckets are there.
    """

    def __init__(self, bucket: Bucket, rates: Sequence[SlotRates]) -> None:
        self.grad, self.weight, self.moments = bucket.grad, bucket.weight, bucket.moments
        self.slots = bucket.slots
        if any(rate.loss_scale != 1.0 for rate in rates):
            # To the bit, but for what is too small for float32: scales are powers of two.
            self.grad.div_(self.grad.new_tensor([[rate.loss_scale] for rate in rates]))
        self.norms: Tensor = torch.linalg.vector_norm(self.grad, dim=1)
        is_finite = torch.isfinite(self.norms)[:, None]
        self._is_skipped = ~is_finite

        def column(values: Sequence[float], when_skipped: float) -> Tensor:
            """`(K, 1)`; with `when_skipped` the step of a slot whose gradient is not finite changes nothing."""
            values_k1 = torch.tensor(values, dtype=self.grad.dtype, device=self.grad.device)[:, None]
            return torch.where(is_finite, values_k1, when_skipped)

        limit = column([rate.params.max_grad_norm for rate in rates], 0.0)
        # As torch.nn.utils.clip_grad_norm_ does it, so that a solo run elsewhere is clipped alike.
        self._clip = (limit / (self.norms[:, None] + 1e-6)).clamp(max=1.0)
        self._lerp1 = column([1 - rate.params.beta1 for rate in rates], 0.0)
        self._beta2 = column([rate.params.beta2 for rate in rates], 1.0)
        self._rest2 = column([1 - rate.params.beta2 for rate in rates], 0.0)
        self._correction2 = column([1 - rate.params.beta2**rate.step for rate in rates], 1.0)
        correction1 = column([1 - rate.params.beta1**rate.step for rate in rates], 1.0)
        decay = column([rate.params.weight_decay for rate in rates], 0.0)
        # All A come first, then all B: LoRA+ gives them a rate each.
        halves = (
            (range(bucket.columns_of_a), [1.0 for _ in rates]),
            (range(bucket.columns_of_a, self.grad.shape[1]), [rate.params.lora_plus_ratio for rate in rates]),
        )
        self._halves = []
        for columns, ratios in halves:
            rate_k1 = column([rate.learning_rate * ratio for rate, ratio in zip(rates, ratios, strict=True)], 0.0)
            self._halves.append((columns, 1 - rate_k1 * decay, rate_k1 / correction1))
        width = max(QUANTISED_BLOCK, BLOCK_VALUES // self.slots // QUANTISED_BLOCK * QUANTISED_BLOCK)
        self.width = min(width, max(len(columns) for columns, _ in halves))

    def stage(self, scratch: Sequence[Tensor]) -> None:
        """Does what allocates as it goes; nothing of it counts until `commit`."""
        if self.moments.is_staged:
            self._work(scratch)

    def commit(self, scratch: Sequence[Tensor]) -> None:
        """Changes weights and moments. Allocates nothing."""
        if self.moments.is_staged:
            self.weight.copy_(self.grad)
            self.moments.commit()
        else:
            self._work(scratch)

    def _work(self, scratch: Sequence[Tensor]) -> None:
        for columns, shrink, rate_k1 in self._halves:
            for start in range(columns.start, columns.stop, self.width):
                block = slice(start, min(start + self.width, columns.stop))
                shape = (self.slots, block.stop - block.start)
                first, second, *rest = [part[: shape[0] * shape[1]].view(shape) for part in scratch]
                g, w = self.grad[:, block], self.weight[:, block]
                exp_avg = self.moments.block("exp_avg", block, rest[0] if rest else None)
                exp_avg_sq = self.moments.block("exp_avg_sq", block, rest[1] if rest else None)
                g.mul_(self._clip).masked_fill_(self._is_skipped, 0.0)
                exp_avg.lerp_(g, self._lerp1)
                torch.mul(g, self._rest2, out=first).mul_(g)
                exp_avg_sq.mul_(self._beta2).add_(first)
                torch.div(exp_avg_sq, self._correction2, out=first).sqrt_().add_(EPSILON)
                torch.mul(exp_avg, rate_k1, out=second).div_(first)
                torch.mul(w, shrink, out=g if self.moments.is_staged else w).sub_(second)
                self.moments.store("exp_avg", block, exp_avg, self._is_skipped)
                self.moments.store("exp_avg_sq", block, exp_avg_sq, self._is_skipped)
