"""What buckets of like rank save: CPU time of a tick and memory of the adapters, against one padded bucket.

    python tests/benchmarks/rank_buckets.py

Pairs are ticked in turn on the bundled base, one thread; medians of seven ticks.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.engine import bucket
from sweeper.engine.pack import Pack
from sweeper.models import base
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.trial import Rhythm
from tests.conftest import random_examples, trial_params

MIXES = {"seven of 8, one of 128": [8] * 7 + [128], "4 to 64": [4, 8, 16, 32, 64], "eight of 8": [8] * 8}
BATCH_SIZE = 8
WARM_UP, TICKS = 2, 7


def pack_of(ranks: list[int], config: Config, home: Home, first_bucket: int) -> Pack:
    bucket.FIRST_BUCKET = first_bucket
    model = base.load_base(config.model, home, torch.device("cpu"))
    pack = Pack(model, linear_names(model), random_examples(200, longest=60), pad=0, chunk_tokens=4096)
    for number, rank in enumerate(ranks):
        rhythm = Rhythm(interval_examples=10_000, evaluations=1, batch_size=BATCH_SIZE)
        pack.admit(*pack.new_slot(number, trial_params(rank=rank, batch_size=BATCH_SIZE), rhythm, seed=0))
    return pack


def main() -> None:
    torch.set_num_threads(1)
    configs: list[Config] = []
    compose.main(["study=demo"], configs.append)
    with tempfile.TemporaryDirectory() as folder:
        for name, ranks in MIXES.items():
            packs = [pack_of(ranks, configs[0], Home(Path(folder)), first) for first in (16, 1024)]
            seconds: list[list[float]] = [[], []]
            for _ in range(WARM_UP + TICKS):
                for pack, spent in zip(packs, seconds, strict=True):
                    started = time.process_time()
                    pack.tick()
                    spent.append(time.process_time() - started)
            mine, padded = (statistics.median(spent[WARM_UP:]) for spent in seconds)
            # Weights, gradients and two moments.
            mib = [sum(4 * bucket.grad.nbytes for bucket in pack.stack.buckets) / 1024**2 for pack in packs]
            print(f"{name}: {mine:.3f} s against {padded:.3f} s, {mib[0]:.0f} MiB against {mib[1]:.0f} MiB")


if __name__ == "__main__":
    main()
