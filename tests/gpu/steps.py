"""The time of a step of one trial alone, t(T), and its peak: the part `steps` of `make gpu-check`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from sweeper.engine.stack import detach
from sweeper.memory.oom import free_caches
from tests.gpu.memory import first_line
from tests.gpu.shapes import linear_weights, random_base, random_pack
from tests.gpu.timing import NO_TIME, case_of, peaks, reset_peaks, tick_s, utilisation

TOKENS = {  # by whether the forward is recomputed: where it is, a line needs no more
    False: (64, 128, 256, 512, 1024, 2048, 4096, 8192),
    True: (64, 512, 2048, 8192),
}
WARM_UP_STEPS, STEPS = 1, 5


def measured(shape: str, device: torch.device, end_s: float, tflop_per_s: float) -> Iterator[dict[str, Any]]:
    """A row for each T, first with what the forward keeps, then with it recomputed.

    Args:
        end_s: no step begins after this, by `time.monotonic`; what is left out is a row that says so.
        tflop_per_s: of a large matrix product here.
    """
    model: Any = None
    for is_checkpointed, each in TOKENS.items():
        for tokens in each:
            row = {"shape": shape, "tokens": tokens, "is_checkpointed": is_checkpointed}
            if time.monotonic() > end_s:
                yield row | {"error": NO_TIME}
                continue
            try:
                model = model or random_base(shape, device)
                yield row | _row(model, tokens, is_checkpointed, device, end_s, tflop_per_s)
            except RuntimeError as error:  # out of memory comes as several kinds of it
                yield row | {"error": first_line(error)}
            finally:
                if model is not None:
                    detach(model)


def _row(
    model: Any, tokens: int, is_checkpointed: bool, device: torch.device, end_s: float, tflop_per_s: float
) -> dict[str, Any]:
    weights = linear_weights(model)
    free_caches()
    pack = random_pack(model, case_of(1, tokens, is_checkpointed))
    for _ in range(WARM_UP_STEPS):
        tick_s(pack, device)
    reset_peaks(device)
    seconds: list[float] = []
    while len(seconds) < STEPS and time.monotonic() <= end_s:
        seconds.append(tick_s(pack, device))
    if not seconds:
        return {"error": NO_TIME}
    median = statistics.median(seconds)
    return {
        "step_s": round(median, 5),
        "slowest_s": round(max(seconds), 5),
        "steps": len(seconds),
        "tokens_per_s": round(tokens / median, 1),
        "utilisation": utilisation(weights, tokens, is_checkpointed, median, tflop_per_s),
        **peaks(device),
    }
