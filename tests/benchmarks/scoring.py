"""Seconds of an evaluation: several adapters together against each alone, and the labels' trie against `generate`.

The adapters are trained for a few steps first, so that `generate` ends where the answer does. The validation rows are
those of the bundled tickets. Each way has the chunk that is best for it, of a few that are tried on some of the rows;
`generate` the best batch. What is compared is measured in turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel

from sweeper.data import tickets
from sweeper.engine import adapter
from sweeper.engine.bucket import AdapterState
from sweeper.models.targets import linear_names
from sweeper.tasks.classification import LabelTrie, predict
from tests.benchmarks import peer
from tests.benchmarks.bench_pack import RANK, Bench, in_turn, keep, options_of, params, timed
from tests.benchmarks.paired import ratio
from tests.benchmarks.prepared import Prepared

ADAPTERS = 8
CHUNKS, BATCHES = (1024, 2048, 4096, 8192), (16, 32, 64)
ROWS = {"tiny": 600, "smollm2-135m": 48}  # of the larger base few: an adapter reads six hundred in minutes
TRAINED = {"tiny": (60, 16), "smollm2-135m": (20, 4)}  # steps, and rows of each


def trained(bench: Bench, adapters: int, steps: int, batch_size: int) -> list[AdapterState]:
    """Adapters that know what an answer looks like."""
    every = range(len(bench.pack.examples))
    bench.admit([every] * adapters, batch_size)
    for _ in range(steps):
        bench.pack.tick()
    return [bench.pack.weights(slot) for slot in bench.pack.slots]


def best(values: Sequence[int], seconds: Callable[[int], float]) -> int:
    """The value that takes the least, of two turns each."""
    found = in_turn({value: lambda value=value: seconds(value) for value in values}, 2)
    return min(found, key=lambda value: min(found[value]))


class Scoring:
    """Rows to score, with the labels they are scored over."""

    def __init__(self, task: Prepared, bench: Bench, rows: int) -> None:
        validation = tickets.splits()["validation"][:rows]
        self.bench = bench
        self.prompts = [task.rendered.prompt_tokens(row["text"]) for row in validation]
        self.answers = [task.rendered.answer_tokens(row["label"]) for row in validation]
        labels = {label: task.rendered.answer_tokens(label) for label in task.rendered.labels}
        self.trie = LabelTrie(labels)
        self.longest = max(labels.values(), key=len)
        self.pad = task.pad

    def together(self, states: Sequence[AdapterState], chunk_tokens: int, rows: int | None = None) -> float:
        self.bench.admit_trained(states)
        self.bench.pack.chunk_tokens = chunk_tokens
        slots = range(len(states))
        return timed(lambda: predict(self.bench.pack, slots, self.prompts[:rows], self.trie))

    def alone(self, states: Sequence[AdapterState], chunk_tokens: int, rows: int | None = None) -> float:
        return sum(self.together([state], chunk_tokens, rows) for state in states)

    def generated(self, model: Any, batch_size: int, rows: int | None = None) -> float:
        pairs = zip(self.prompts[:rows], self.answers[:rows], strict=True)
        own = [{"prompt": list(prompt), "answer": list(answer)} for prompt, answer in pairs]
        # What may be written is as long as the longest label, whichever rows these are.
        own[0]["answer"] = list(self.longest)
        return timed(lambda: peer.evaluate(model, own, self.pad, batch_size))


def packed(scoring: Scoring, states: Sequence[AdapterState], rounds: int) -> dict[str, Any]:
    """All adapters in the same forwards, against one after another."""
    some = max(8, len(scoring.prompts) // 4)
    chunk = {
        "together": best(CHUNKS, lambda tokens: scoring.together(states, tokens, some)),
        "alone": best(CHUNKS, lambda tokens: scoring.alone(states[:2], tokens, some)),
    }
    seconds = in_turn(
        {
            "together": lambda: scoring.together(states, chunk["together"]),
            "alone": lambda: scoring.alone(states, chunk["alone"]),
        },
        rounds,
    )
    found = {"adapters": len(states), "rows": len(scoring.prompts), "chunk_tokens": chunk, "raw": seconds}
    return {**found, **_medians(seconds), **ratio(seconds["alone"], seconds["together"])}


def against_generate(task: Prepared, scoring: Scoring, state: AdapterState, rounds: int) -> dict[str, Any]:
    """One adapter over the trie, against `generate` on the same adapter in PEFT."""
    base: Any = peer.load_base(task.base_folder, getattr(torch, task.dtype))
    folder = task.folder / "adapter"
    adapter.write(folder, state, params(RANK, 1), task.base_folder, linear_names(base))
    model = PeftModel.from_pretrained(base, str(folder))
    some = max(8, len(scoring.prompts) // 4)
    chunk = best(CHUNKS, lambda tokens: scoring.together([state], tokens, some))
    batch = best(BATCHES, lambda size: scoring.generated(model, size, some))
    seconds = in_turn(
        {"trie": lambda: scoring.together([state], chunk), "generate": lambda: scoring.generated(model, batch)}, rounds
    )
    found = {"rows": len(scoring.prompts), "chunk_tokens": chunk, "batch_size": batch, "raw": seconds}
    return {**found, **_medians(seconds), **ratio(seconds["generate"], seconds["trie"])}


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}_s": statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    options, task = options_of(__doc__)
    bench = Bench.of(task, [])
    bench.pack.examples = task.examples()
    steps, batch_size = TRAINED[task.load.model]
    steps, adapters, rows = (2, 2, 16) if options.quick else (steps, ADAPTERS, ROWS[task.load.model])
    states = trained(bench, adapters, steps, batch_size)
    scoring = Scoring(task, bench, rows)
    found = {"trained_steps": steps, "packed": packed(scoring, states, options.rounds)}
    found["generate"] = against_generate(task, scoring, states[0], options.rounds)
    keep(options, found)


if __name__ == "__main__":
    main()
