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

from sweeper.engine.stack import AdapterStack, Bucket
from sweeper.trial import TrialParams

EPSILON = 1e-8  # AdamW's default in torch and in transformers' Trainer


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
    grad, weight = bucket.grad, bucket.flat["weight"]
    exp_avg, exp_avg_sq = bucket.flat["exp_avg"], bucket.flat["exp_avg_sq"]
    norms: Tensor = torch.linalg.vector_norm(grad, dim=1)
    is_finite = torch.isfinite(norms)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=grad.dtype, device=grad.device)[:, None]

    limit = column([rate.params.max_grad_norm for rate in rates])[:, 0]
    # As torch.nn.utils.clip_grad_norm_ does it, so that a solo run elsewhere is clipped alike.
    grad.mul_((limit / (norms + 1e-6)).clamp(max=1.0)[:, None])
    kept = None if bool(is_finite.all()) else [t[~is_finite].clone() for t in (weight, exp_avg, exp_avg_sq)]

    beta1 = column([rate.params.beta1 for rate in rates])
    beta2 = column([rate.params.beta2 for rate in rates])
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).add_((1 - beta2) * grad * grad)
    correction1 = column([1 - rate.params.beta1**rate.step for rate in rates])
    correction2 = column([1 - rate.params.beta2**rate.step for rate in rates])
    rate_a = column([rate.learning_rate for rate in rates])
    rate_b = column([rate.learning_rate * rate.params.lora_plus_ratio for rate in rates])
    decay = column([rate.params.weight_decay for rate in rates])
    halves = (slice(0, bucket.columns_of_a), rate_a), (slice(bucket.columns_of_a, None), rate_b)
    for columns, rate in halves:
        weight[:, columns].mul_(1 - rate * decay)
        denominator = (exp_avg_sq[:, columns] / correction2).sqrt_().add_(EPSILON)
        weight[:, columns].sub_(rate / correction1 * exp_avg[:, columns] / denominator)
    if kept is not None:
        for tensor, rows in zip((weight, exp_avg, exp_avg_sq), kept, strict=True):
            tensor[~is_finite] = rows
    return norms
