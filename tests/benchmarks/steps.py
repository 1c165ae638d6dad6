"""Seconds of an optimizer step, inside one process and one thread: of K slots with T tokens each, and of the Trainer.

Rows of 32 random tokens, T / 32 of them for each slot, rank 16 on every linear. Real ticket rows, of differing lengths,
where it says so. What is compared is measured in turn.

    S(K, T) = K · t(1, T) / t(K, T)      what packing gains
    tax     = t(K × T) / t(1 × K·T) − 1  what K slots take longer than one slot with all their rows
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch

from sweeper.data.example import Example
from sweeper.engine.batches import batch_rows
from sweeper.trial import Rhythm
from tests.benchmarks import peer
from tests.benchmarks.bench_pack import (
    RANK,
    Bench,
    gemm_flops,
    keep,
    linear_parameters,
    options_of,
    params,
    peak_rss_mib,
    timed,
)
from tests.benchmarks.bench_pack import in_turn as measured
from tests.benchmarks.paired import ratio
from tests.benchmarks.prepared import Prepared

ROW_TOKENS, ANSWER_TOKENS = 32, 3
TOKENS, SLOTS = (32, 64, 128, 256, 512, 1024), (1, 2, 4, 8, 16)
# More than so many in a step are left out: they would take hours, and the larger steps say the same.
MOST_TOKENS = {"tiny": 16 * 1024, "smollm2-135m": 4096}
LEAST_S = 0.2  # of a turn: short steps are repeated within one
LONG_S = 2.0  # a step that takes longer needs no warm-up
WARM_UP, BLOCK = 2, 8  # steps of a block of the Trainer, and of ours beside it
TAX_SLOTS, TAX_BATCH = 8, 4


def random_rows(count: int, vocabulary: int) -> list[Example]:
    """Rows of exactly `ROW_TOKENS` tokens."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(3, vocabulary, (count, ROW_TOKENS), generator=generator).tolist()
    return [Example(tuple(row[:-ANSWER_TOKENS]), tuple(row[-ANSWER_TOKENS:])) for row in drawn]


def turn(bench: Bench, slots: int, batch_size: int) -> float:
    """The seconds of a step of fresh slots: of the first, where that is long, else of some that follow it."""
    every = range(len(bench.pack.examples))
    bench.admit([every] * slots, batch_size)
    first_s = timed(bench.pack.tick)
    if first_s > LONG_S:
        return first_s
    count = max(1, min(20, round(LEAST_S / first_s)))
    return timed(lambda: [bench.pack.tick() for _ in range(count)]) / count


def grid(task: Prepared, bench: Bench, rounds: int, is_quick: bool) -> dict[str, Any]:
    """t(K, T) for all that are not too large, and what packing gains."""
    slots, tokens = ((1, 2), (32, 512)) if is_quick else (SLOTS, TOKENS)
    most = MOST_TOKENS[task.load.model]
    cells = [(k, t) for t, k in itertools.product(tokens, slots) if k * t <= most]
    ways = {cell: _way(bench, *cell) for cell in cells}
    seconds = measured(ways, rounds)
    rate = gemm_flops(bench.model.dtype)
    weights = linear_parameters(bench.model)
    found = []
    for (k, t), own in seconds.items():
        alone = [k * one for one in seconds[1, t]]
        # Forward, and backward to the inputs: the base itself has no gradient.
        flops = 4 * weights * k * t / statistics.median(own)
        gain = ratio(alone, own)
        found.append(
            {"slots": k, "tokens": t, "step_s": own, "median_s": statistics.median(own), "gain": gain}
            | {"base_gemm_share": flops / rate}
        )
    return {"cells": found, "gemm_gflops": rate / 1e9, "linear_parameters": weights}


def _way(bench: Bench, slots: int, tokens: int) -> Callable[[], float]:
    return lambda: turn(bench, slots, tokens // ROW_TOKENS)


def tax(bench: Bench, rounds: int) -> dict[str, Any]:
    """K slots with their own rows, against one slot with all of them; real rows."""
    subsets = [range(slot * TAX_BATCH, (slot + 1) * TAX_BATCH) for slot in range(TAX_SLOTS)]
    whole = range(TAX_SLOTS * TAX_BATCH)

    def packed() -> float:
        bench.admit(subsets, TAX_BATCH)
        bench.pack.tick()
        return timed(bench.pack.tick)

    def alone() -> float:
        bench.admit([whole], len(whole))
        bench.pack.tick()
        return timed(bench.pack.tick)

    seconds = measured({"packed": packed, "alone": alone}, 2 * rounds)
    return {"slots": TAX_SLOTS, "batch_size": TAX_BATCH, "raw": seconds, **_less_one(ratio(**_pair(seconds)))}


def _pair(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    return {"above": seconds["packed"], "below": seconds["alone"]}


def _less_one(found: dict[str, Any]) -> dict[str, Any]:
    return {"tax": found["ratio"] - 1, "low": found["low"] - 1, "high": found["high"] - 1}


def trainer(task: Prepared, bench: Bench, batch_size: int, rounds: int) -> dict[str, Any]:
    """Steps of one slot against those of the Trainer, on the same real rows in the same order."""
    rhythm = Rhythm(interval_examples=10_000, evaluations=1, batch_size=batch_size)
    steps = WARM_UP + BLOCK
    rows = [row for step in range(steps) for row in batch_rows(rhythm, step, len(bench.pack.examples), 0)]
    chosen = [bench.pack.examples[row] for row in rows]
    examples = peer.training_rows([{"prompt": list(one.prompt), "answer": list(one.answer)} for one in chosen])
    own = params(RANK, batch_size)
    theirs: Any = peer.load_base(task.base_folder, getattr(torch, task.dtype))
    model = peer.with_adapter(theirs, RANK, own.alpha)
    changes = {"max_steps": steps, "per_device_train_batch_size": batch_size, "train_sampling_strategy": "sequential"}

    def of_trainer() -> float:
        times = peer.train(model, examples, task.pad, own.learning_rate, task.folder / "trainer", **changes)
        return sum(times[WARM_UP:]) / BLOCK

    def of_ours() -> float:
        bench.admit([range(len(bench.pack.examples))], batch_size)
        for _ in range(WARM_UP):
            bench.pack.tick()
        return timed(lambda: [bench.pack.tick() for _ in range(BLOCK)]) / BLOCK

    seconds = measured({"trainer": of_trainer, "ours": of_ours}, rounds)
    tokens = sum(len(one) for one in chosen[WARM_UP * batch_size :]) / BLOCK
    found = {"batch_size": batch_size, "tokens_per_step": tokens, "raw": seconds}
    medians = {f"{name}_s": statistics.median(each) for name, each in seconds.items()}
    return {**found, **medians, **ratio(seconds["trainer"], seconds["ours"])}


def main() -> None:
    options, task = options_of(__doc__)
    bench = Bench.of(task, [])
    bench.pack.examples = random_rows(64, bench.model.config.vocab_size)
    found: dict[str, Any] = {"row_tokens": ROW_TOKENS, "rank": RANK}
    found["grid"] = grid(task, bench, options.rounds, options.quick)
    found["grid"]["peak_rss_mib"] = peak_rss_mib()
    bench.pack.examples = task.examples()
    found["tax"] = tax(bench, options.rounds)
    sizes = (4,) if options.quick else (4, 16)
    found["trainer"] = [trainer(task, bench, size, options.rounds) for size in sizes]
    keep(options, found)


if __name__ == "__main__":
    main()
