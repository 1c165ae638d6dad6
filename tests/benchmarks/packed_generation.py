"""What writing in a pack saves: CPU and wall time of answers from K adapters together, against one adapter at a time.

    python tests/benchmarks/packed_generation.py

The bundled base, one thread; the validation questions of `docqa`, 16 tokens behind each. Both ways are timed in turn;
medians of three. Both write the same, but where two tokens are as likely to rounding.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.data.prompt import renderer
from sweeper.engine.batches import Item
from sweeper.engine.pack import Pack
from sweeper.models import base
from sweeper.models.source import load_tokenizer
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.trial import Rhythm
from tests.conftest import trial_params

SLOTS, PROMPTS, TOKENS, TURNS = 4, (8, 32), 16, 3
RANKS = [8, 16, 32, 64]


def timed(write: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    started = time.perf_counter(), time.process_time()
    write()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def main() -> None:
    torch.set_num_threads(1)
    configs: list[Config] = []
    compose.main(["study=docqa"], configs.append)
    config = configs[0]
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        rendered = renderer(config, load_tokenizer(config.model, home), [])
        data = rows.of(config)
        model = base.load_base(config.model, home, torch.device("cpu"))
        pack = Pack(model, linear_names(model), rendered.examples(data.train), pad=0, chunk_tokens=4096)
    for number, rank in enumerate(RANKS):
        rhythm = Rhythm(interval_examples=10_000, evaluations=1, batch_size=8)
        pack.admit(*pack.new_slot(number, trial_params(rank=rank, batch_size=8), rhythm, seed=0))
    for _ in range(3):
        pack.tick()
    prompts = rendered.prompts(data.validation)  # type: ignore[arg-type]
    for count in PROMPTS:
        by_slot = [[Item(slot, tuple(prompt)) for prompt in prompts[:count]] for slot in range(SLOTS)]
        every = [item for items in by_slot for item in items]
        seconds: dict[str, list[tuple[float, float]]] = {"packed": [], "alone": []}
        for _ in range(TURNS):
            seconds["packed"].append(timed(lambda every=every: pack.generate(every, TOKENS, [])))
            seconds["alone"].append(
                timed(lambda by_slot=by_slot: [pack.generate(items, TOKENS, []) for items in by_slot])
            )
        wall = {way: statistics.median(one[0] for one in times) for way, times in seconds.items()}
        cpu = {way: statistics.median(one[1] for one in times) for way, times in seconds.items()}
        alone = [one.tokens for items in by_slot for one in pack.generate(items, TOKENS, [])]
        same = sum(one.tokens == other for one, other in zip(pack.generate(every, TOKENS, []), alone, strict=True))
        print(
            f"{SLOTS} adapters, {count} prompts each: {wall['packed']:.2f} s (CPU {cpu['packed']:.2f}) together, "
            f"{wall['alone']:.2f} s (CPU {cpu['alone']:.2f}) one at a time; {same} of {len(alone)} texts are the same"
        )


if __name__ == "__main__":
    main()
