"""What is measured inside a process: its options, packs on a base that others use too, turns that are timed."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeper.data.example import Example
from sweeper.engine.adapter import AdapterState
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot
from sweeper.models import base
from sweeper.models.targets import linear_names
from sweeper.paths import Home, write_atomically
from sweeper.trial import Rhythm, TrialParams
from tests.benchmarks.prepared import LOADS, Prepared
from tests.conftest import trial_params

CHUNK_TOKENS = 4096  # as engine.chunk_tokens
RANK = 16  # as lora.rank


@dataclass
class Bench:
    """A base with a pack on it, whose slots and rows change from one turn to the next."""

    model: Any
    pack: Pack

    @classmethod
    def of(cls, task: Prepared, examples: Sequence[Example]) -> Bench:
        model = base.load_base(task.config.model, task.home, torch.device("cpu"))
        linears = linear_names(model)
        return cls(model, Pack(model, linears, examples, pad=task.pad, chunk_tokens=CHUNK_TOKENS))

    def admit(self, subsets: Sequence[Sequence[int]], batch_size: int, rank: int = RANK) -> None:
        """Fresh slots in place of those that are there, one for each subset of the rows."""
        self.clear()
        for number, subset in enumerate(subsets):
            rhythm = Rhythm(interval_examples=10_000, evaluations=1, batch_size=batch_size)
            slot, state = self.pack.new_slot(number, params(rank, batch_size), rhythm, seed=number)
            slot.subset = tuple(subset)
            self.pack.admit(slot, state)

    def admit_trained(self, states: Sequence[AdapterState]) -> None:
        """Slots with these weights, to score."""
        self.clear()
        for number, state in enumerate(states):
            rhythm = Rhythm(interval_examples=1, evaluations=1, batch_size=1)
            self.pack.admit(Slot(number, params(state.rank, 1), rhythm, seed=0), state)

    def clear(self) -> None:
        self.pack.stack.clear()
        self.pack.slots.clear()


def params(rank: int, batch_size: int) -> TrialParams:
    return trial_params(rank=rank, alpha=2.0 * rank, batch_size=batch_size, learning_rate=1e-3, warmup_ratio=0.05)


def timed(work: Callable[[], object]) -> float:
    """CPU seconds: of one thread on an idle machine those of the wall, and right on one that is not."""
    started = time.process_time()
    work()
    return time.process_time() - started


def in_turn(ways: Mapping[Any, Callable[[], float]], rounds: int) -> dict[Any, list[float]]:
    """The seconds of each way, all in turn, round after round; every other round backwards."""
    found: dict[Any, list[float]] = {name: [] for name in ways}
    for index in range(rounds):
        for name in list(ways)[:: -1 if index % 2 else 1]:
            found[name].append(ways[name]())
    return found


def gemm_flops(dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations a second of a large product of matrices, the best of a few."""
    one, other = (torch.randn(size, size).to(dtype) for _ in range(2))
    torch.mm(one, other)
    return 2 * size**3 / min(timed(lambda: torch.mm(one, other)) for _ in range(repeats))


def linear_parameters(model: Any) -> int:
    """The weights of all adapted linears of the base, whatever they are packed in."""
    modules = dict(model.named_modules())
    return sum(modules[name].in_features * modules[name].out_features for name in linear_names(model))


def peak_rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def options_of(description: str | None) -> tuple[argparse.Namespace, Prepared]:
    """The options of such a process, and the task that was prepared for it."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    for name in ("--model", "--home", "--folder", "--to"):
        parser.add_argument(name, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = Prepared(LOADS[options.model], Path(options.folder), Home(Path(options.home)), steps=50, dtype=options.dtype)
    return options, task


def keep(options: argparse.Namespace, found: dict[str, Any]) -> None:
    write_atomically(Path(options.to), json.dumps({**found, "peak_rss_mib": peak_rss_mib()}))
