"""Measures how fast an adapter answers, batch by batch.

Each batch size answers the same requests, in an order that is drawn once, as requests come: short ones beside long
ones. A request begins as the tokens of its prompt and ends as the text of its answer.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from sweeper.memory.planner import Work
from sweeper.money.inference import Speed
from sweeper.serving.served import Served

PASSES = 3  # over the requests, behind a batch that warms up
GROWTH = 1.02  # of requests per second, with which a larger batch is worth its latency
LOOK_BEYOND = 2  # sizes in a row that are no faster: one may be so because something else took the device
Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """How fast it was.

    Attributes:
        requests: that each pass answered at the least.
        prompt_tokens: of a request, the median.
        answer_tokens: of a request, the mean: written, or chosen where it is one of some labels.
        ended: why no larger batch was tried.
    """

    speeds: tuple[Speed, ...]
    requests: int
    prompt_tokens: float
    answer_tokens: float
    ended: str


def measure(
    served: Served,
    sizes: Sequence[int],
    requests: int,
    announce: Callable[[str], None],
    clock_s: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Measures at one batch size after the other, until larger ones are no faster or would not fit.

    Args:
        sizes: ascending; the first is 1.
        requests: of a pass; rows come more than once where there are fewer.

    Raises:
        OutOfRoomError: if not even one request fits into memory.
    """
    pack = served.pack
    pack.chunk_tokens = sys.maxsize  # what is not cut for memory is not cut
    drawn = random.Random(0).sample(served.prompts, len(served.prompts))
    longest = max(map(len, drawn))
    speeds: list[Speed] = []
    answer_tokens = 0.0
    ended = f"{sizes[-1]} is the largest that was asked for"
    for size in sizes:
        asked = list(islice(cycle(drawn), math.ceil(requests / size) * size))  # whole batches
        found = _at(served, size, asked, clock_s) if size == 1 or _fits(served, size, longest) else None
        if found is None:
            ended = f"{size} requests of up to {longest} tokens do not fit into the memory that is free"
            break
        speed, tokens = found
        answer_tokens = answer_tokens or tokens / len(asked)
        announce(f"batch {size}: {speed.requests_per_s:.3g} requests/s")
        speeds.append(speed)
        if _has_stalled([one.requests_per_s for one in speeds]):
            ended = f"up to {size} together are no faster"
            break
    return Measured(
        speeds=tuple(speeds),
        requests=requests,
        prompt_tokens=statistics.median(map(len, drawn)),
        answer_tokens=answer_tokens,
        ended=ended,
    )


def _has_stalled(rates: list[float]) -> bool:
    """Whether the latest sizes are all no faster than the fastest before them."""
    before, latest = rates[:-LOOK_BEYOND], rates[-LOOK_BEYOND:]
    return bool(before) and max(latest) < GROWTH * max(before)


def _fits(served: Served, size: int, longest: int) -> bool:
    """Whether the planner would leave a batch of the longest requests whole."""
    pack, room = served.pack, served.task.room_tokens
    work = Work.SCORE if room is None else Work.GENERATE
    lengths = [longest + (room or 0)] * size
    return pack.planner.part(work, lengths, pack.stack.profile, pack.chunk_tokens).rows == size


def _at(served: Served, size: int, asked: list[Prompt], clock_s: Callable[[], float]) -> tuple[Speed, int] | None:
    """The speed at one batch size, and the tokens of all answers; None where batches had to be cut after all."""
    pack = served.pack
    batches = [asked[start : start + size] for start in range(0, len(asked), size)]
    rescues = sum(pack.planner.rescues.values())
    served.answer(batches[0])  # warms up
    latencies, passes, tokens = [], [], pack.answer_tokens
    for _ in range(PASSES):
        started = clock_s()
        for batch in batches:
            began = clock_s()
            served.answer(batch)  # ends with texts: nothing is left to be waited for
            latencies.append(clock_s() - began)
        passes.append(clock_s() - started)
    if size > 1 and sum(pack.planner.rescues.values()) > rescues:
        return None
    answered = (pack.answer_tokens - tokens) // PASSES
    median_s = statistics.median(passes)
    return Speed(
        batch=size,
        latency_s=statistics.median(latencies),
        latency_p95_s=float(np.quantile(latencies, 0.95)),
        requests_per_s=len(asked) / median_s,
        low=len(asked) / max(passes),
        high=len(asked) / min(passes),
        tokens_per_s=(sum(map(len, asked)) + answered) / median_s,
    ), answered
