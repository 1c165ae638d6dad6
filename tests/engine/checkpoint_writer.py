"""A process to kill: `python -m tests.engine.checkpoint_writer FILE`.

For each line on standard input a child begins to write checkpoints, without end, and prints the step of each
that is done. The parent stays, so that the imports are paid once.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from itertools import count
from pathlib import Path

import torch

from sweeper.engine import checkpoint
from sweeper.engine.bucket import KINDS, AdapterState
from sweeper.engine.slot import Slot
from sweeper.trial import Rhythm
from tests.conftest import trial_params


@cache
def _noise(seed: int) -> torch.Tensor:
    return torch.randn(8, 16384, generator=torch.Generator().manual_seed(seed))


def made(step: int) -> tuple[Slot, AdapterState]:
    """A trial of which everything depends on the step: 24 MiB, so that writing it takes a while."""
    params = trial_params(rank=8)
    state = AdapterState(rank=8, scale=params.scale)
    for kind in KINDS:
        for name in range(16):
            state.tensors[kind][f"{name}.lora_A"] = _noise(name) + step
    rhythm = Rhythm(interval_examples=10**9, evaluations=1, batch_size=1)
    return Slot(number=0, params=params, rhythm=rhythm, seed=0, step=step), state


def main(file: Path) -> None:
    torch.set_num_threads(1)
    first = 1
    for line in sys.stdin:
        first = int(line)
        if child := os.fork():
            print(f"pid {child}", flush=True)
            os.waitpid(child, 0)
            print("dead", flush=True)
            continue
        for step in count(first):
            slot, state = made(step)
            checkpoint.save(file, slot, state)
            os.write(1, f"{step}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
