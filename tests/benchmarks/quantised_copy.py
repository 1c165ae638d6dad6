"""How long a worker takes to load its base: from the source, the first time with its quantised copy, and from that.

    python tests/benchmarks/quantised_copy.py [OVERRIDE...]   # such as model=smollm2-135m, which it is without one

Each in a process of its own, in turn, on one thread; medians of five, in seconds. A packaged GGUF file is converted
before, which is said too.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

ROUNDS = 5
CASES = {"from the source": "", "with a copy written": "0", "from the copy": "0"}


def load(folder: Path, spare: str, overrides: list[str]) -> None:
    """Loads a base in this process, as a worker does: it has seen the base's modules by then."""
    import torch

    from sweeper.config import compose
    from sweeper.config.schema import Config
    from sweeper.models import base
    from sweeper.paths import Home

    torch.set_num_threads(1)
    configs: list[Config] = []
    compose.main(["study=demo", *overrides], configs.append)
    home, started = Home(folder), time.monotonic()
    base.skeleton(configs[0].model, home)
    between = time.monotonic()
    base.load_base(configs[0].model, home, torch.device("cpu"), int(spare) if spare else None)
    print(between - started, time.monotonic() - between)


def main(overrides: list[str]) -> None:
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()

        def timed(spare: str) -> tuple[float, float]:
            arguments = [sys.executable, __file__, "--load", folder, spare, *overrides]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            said = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            skeleton, loaded = map(float, said.split()[-2:])
            return skeleton, loaded

        print(f"modules, and a conversion where there is one: {timed('')[0]:.1f} s")
        for _ in range(ROUNDS):
            for name, spare in CASES.items():
                found[name].append(timed(spare)[1])
            for copy in models.glob("*-nf4-*"):
                copy.rename(copy.with_name(f"before-{len(found['from the copy'])}"))
    for name, seconds in found.items():
        print(f"{name}: {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        load(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    else:
        main(sys.argv[1:] or ["model=smollm2-135m"])
