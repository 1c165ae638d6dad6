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
from transformers import get_scheduler

from sweeper.engine.moments import QUANTISED_BLOCK
from sweeper.engine.stack import AdapterStack, Bucket
from sweeper.trial import TrialParams

EPSILON = 1e-8  # AdamW's default in torch and in transformers' Trainer
BLOCK_VALUES = 2**21  # of a slot's values that are worked on at a time: 8 MiB of scratch in float32


@dataclass(frozen=True)
class SlotRates:
    """One slot's values for one step; `step` counts from 1."""

    params: TrialParams
    learning_rate: float
    step: int


@lru_cache(maxsize=256)
def schedule_multipliers(schedule: str, warmup_steps: int, total_steps: int) -> tuple[float, ...]:
    """The learning rate of each step as a multiple of the peak, from transformers' own schedules."""
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

    Returns:
        The gradient norm of each slot before clipping; not finite where the slot was skipped.
    """
    norms: list[Tensor] = []
    first = 0
    for bucket in stack.buckets:
        norms.append(_step(bucket, rates[first : first + bucket.slots]))
        first += bucket.slots
    return [float(norm) for norm in torch.cat(norms).tolist()]


def _step(bucket: Bucket, rates: Sequence[SlotRates]) -> Tensor:
    """One step of a bucket; it happens whole or, where memory runs out, not at all.

    Everything is allocated before the first value changes: what follows works in place, or in scratch of one block.
    With 8-bit moments, which cannot be changed in place, the new ones are staged, and so are the new weights, in the
    gradient's memory; they are put in their places when all are there.
    """
    grad, weight, moments = bucket.grad, bucket.weight, bucket.moments
    moments.forget()  # what a step that ran out of memory had staged
    norms: Tensor = torch.linalg.vector_norm(grad, dim=1)
    is_finite = torch.isfinite(norms)[:, None]
    is_skipped = ~is_finite

    def column(values: Sequence[float], when_skipped: float) -> Tensor:
        """`(K, 1)`; with `when_skipped` the step of a slot whose gradient is not finite changes nothing."""
        values_k1 = torch.tensor(values, dtype=grad.dtype, device=grad.device)[:, None]
        return torch.where(is_finite, values_k1, when_skipped)

    limit = torch.tensor([rate.params.max_grad_norm for rate in rates], dtype=grad.dtype, device=grad.device)
    # As torch.nn.utils.clip_grad_norm_ does it, so that a solo run elsewhere is clipped alike.
    clip = (limit / (norms + 1e-6)).clamp(max=1.0)[:, None]
    lerp1 = column([1 - rate.params.beta1 for rate in rates], 0.0)
    beta2 = column([rate.params.beta2 for rate in rates], 1.0)
    rest2 = column([1 - rate.params.beta2 for rate in rates], 0.0)
    correction2 = column([1 - rate.params.beta2**rate.step for rate in rates], 1.0)
    correction1 = column([1 - rate.params.beta1**rate.step for rate in rates], 1.0)
    decay = column([rate.params.weight_decay for rate in rates], 0.0)
    halves = []
    for columns, ratios in (
        (range(bucket.columns_of_a), [1.0 for rate in rates]),
        (range(bucket.columns_of_a, grad.shape[1]), [rate.params.lora_plus_ratio for rate in rates]),
    ):
        rate_k1 = column([rate.learning_rate * ratio for rate, ratio in zip(rates, ratios, strict=True)], 0.0)
        halves.append((columns, 1 - rate_k1 * decay, rate_k1 / correction1))
    width = max(QUANTISED_BLOCK, BLOCK_VALUES // bucket.slots // QUANTISED_BLOCK * QUANTISED_BLOCK)
    width = min(width, max(len(columns) for columns, _, _ in halves))
    scratch = [grad.new_empty(bucket.slots, width) for _ in range(4 if moments.needs_scratch else 2)]

    for columns, shrink, rate_k1 in halves:
        for start in range(columns.start, columns.stop, width):
            block = slice(start, min(start + width, columns.stop))
            first, second, *rest = [part[:, : block.stop - block.start] for part in scratch]
            g, w = grad[:, block], weight[:, block]
            exp_avg = moments.block("exp_avg", block, rest[0] if rest else None)
            exp_avg_sq = moments.block("exp_avg_sq", block, rest[1] if rest else None)
            g.mul_(clip).masked_fill_(is_skipped, 0.0)
            exp_avg.lerp_(g, lerp1)
            torch.mul(g, rest2, out=first).mul_(g)
            exp_avg_sq.mul_(beta2).add_(first)
            torch.div(exp_avg_sq, correction2, out=first).sqrt_().add_(EPSILON)
            torch.mul(exp_avg, rate_k1, out=second).div_(first)
            target = g if moments.is_staged else w
            torch.mul(w, shrink, out=target).sub_(second)
            moments.store("exp_avg", block, exp_avg)
            moments.store("exp_avg_sq", block, exp_avg_sq)
    if moments.is_staged:
        weight.copy_(grad)
        moments.commit()
    return norms
