"""What the guard and the planner cost of a step: the same ticks with and without them, and the time within them.

    python tests/benchmarks/memory_guard.py

Ticks of the two packs alternate, on the bundled base (the shortest steps there are), one thread; medians.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.engine.pack import Pack
from sweeper.memory.formula import Formula
from sweeper.memory.guard import Guard
from sweeper.memory.planner import Planner
from sweeper.memory.readings import HostBackend
from sweeper.models import base
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.preflight.dimensions import dimensions_of
from sweeper.preflight.forecast import Lengths, MemoryForecast
from sweeper.trial import Rhythm
from tests.conftest import random_examples, trial_params

SLOTS, BATCH_SIZE, TICKS = 4, 16, 41


def main() -> None:
    torch.set_num_threads(1)
    configs: list[Config] = []
    compose.main(["study=demo"], configs.append)
    config = configs[0]
    with tempfile.TemporaryDirectory() as folder:
        guarded, bare = (pack_of(config, Home(Path(folder)), is_guarded) for is_guarded in (True, False))
    inside: list[float] = []
    for name in ("begin", "part", "end"):
        setattr(guarded.planner, name, timed(getattr(guarded.planner, name), inside))
    times: dict[str, list[tuple[float, float]]] = {"guarded": [], "bare": []}
    spent: list[float] = []
    assert guarded.planner.guard is not None
    with guarded.planner.guard.watching():
        for _ in range(TICKS):
            for name, pack in (("guarded", guarded), ("bare", bare)):
                inside.clear()
                wall, cpu = time.perf_counter(), time.process_time()
                pack.tick()
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
                if name == "guarded":
                    spent.append(sum(inside) / times[name][-1][0])
    for index, clock in enumerate(("wall", "CPU")):
        ratios = [a[index] / b[index] for a, b in zip(times["guarded"], times["bare"], strict=True)]
        median = statistics.median(a[index] for a in times["bare"])
        print(f"{clock}: a bare tick {median * 1e3:.1f} ms, with guard and planner × {statistics.median(ratios):.4f}")
    print(f"within guard and planner: {statistics.median(spent):.3%} of a tick")


def timed(function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            into.append(time.perf_counter() - started)

    return called


def pack_of(config: Config, home: Home, is_guarded: bool) -> Pack:
    model = base.load_base(config.model, home, torch.device("cpu"))
    planner = Planner(gradient_checkpointing="auto")
    names = linear_names(model)
    examples = random_examples(400, longest=60)
    if is_guarded:
        planner.guard = Guard(HostBackend(), reserve_gib=config.memory.reserve_gib, watch_s=config.memory.watch_s)
        sizes = dimensions_of(model, ("all-linear",), torch.float32, has_dropout=False)
        lengths = Lengths.of(examples, [(1,)])
        planner.cost = MemoryForecast(Formula.generic(sizes), config, lengths, planner.guard.budget_bytes())
    pack = Pack(model, names, examples, pad=0, chunk_tokens=4096, planner=planner)
    for number in range(SLOTS):
        rhythm = Rhythm(interval_examples=10_000, evaluations=1, batch_size=BATCH_SIZE)
        pack.admit(*pack.new_slot(number, trial_params(rank=16, batch_size=BATCH_SIZE), rhythm, seed=number))
    return pack


if __name__ == "__main__":
    main()
