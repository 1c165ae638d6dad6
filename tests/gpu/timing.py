"""How long a step takes on a device, and how much of the device's own rate it uses."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from sweeper.engine.pack import Pack
from sweeper.preflight.case import Case
from sweeper.units import GIB

RANK = 16
ANSWER_TOKENS = 32
SEQUENCE_TOKENS = 512
NO_TIME = "no time left"
GEMM_SIZE, TOY_GEMM_SIZE = 8192, 256
GEMM_WARM_UP, GEMM_REPEATS = 3, 20


def case_of(slots: int, tokens: int, is_checkpointed: bool) -> Case:
    """Slots that read `tokens` each, in as few rows as make sense: one of up to 512 tokens, beyond that rows of 512.

    Longer rows would measure attention, which grows with their square; shorter ones are what T is there to vary.
    """
    length = min(SEQUENCE_TOKENS, tokens)
    return Case(RANK, length, tokens // length, slots, ANSWER_TOKENS, is_checkpointed=is_checkpointed)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """The wall time of `work`, with all that it asked of the device."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def tick_s(pack: Pack, device: torch.device) -> float:
    """The seconds of one tick.

    Raises:
        RuntimeError: if a loss or a gradient is not finite.
    """
    ticks = []
    seconds = seconds_of(lambda: ticks.extend(pack.tick()), device)
    if not all(tick.is_finite for tick in ticks):
        raise RuntimeError("losses and gradients must be finite")
    return seconds


def peaks(device: torch.device) -> dict[str, float]:
    """The peak since `reset_peaks`, in GiB; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated(device) / GIB, 4),
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved(device) / GIB, 4),
    }


def reset_peaks(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def gemm(device: torch.device) -> dict[str, Any]:
    """The rate of large bfloat16 matrix products on this device: what a step is held against."""
    size = GEMM_SIZE if device.type == "cuda" else TOY_GEMM_SIZE
    left, right = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    seconds = [
        seconds_of(lambda: torch.matmul(left, right, out=product), device) for _ in range(GEMM_WARM_UP + GEMM_REPEATS)
    ][GEMM_WARM_UP:]
    median = statistics.median(seconds)
    return {
        "size": size,
        "repeats": len(seconds),
        "median_s": round(median, 7),
        "slowest_s": round(max(seconds), 7),
        "tflop_per_s": round(2 * size**3 / median / 1e12, 6),
    }


def utilisation(weights: int, tokens: int, is_checkpointed: bool, step_s: float, tflop_per_s: float) -> float:
    """The share of the measured rate that the base's linears use in a step of `tokens`.

    For each weight and token, the forward takes 2 FLOPs, the gradient of the input 2, and 2 more a forward that is
    done again; the frozen weights have no gradient. Adapters, attention and head count as overhead.
    """
    flops = (6 if is_checkpointed else 4) * weights * tokens
    return round(flops / step_s / (tflop_per_s * 1e12), 5)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
