"""How long a base takes to load in a fresh process, and a launch to begin, the first time in a store and the second."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.paths import Home
from tests.benchmarks import arms, prepared
from tests.benchmarks.paired import ratio
from tests.benchmarks.prepared import Prepared

ORDER = ("first", "second")


def measure(task: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    """Loads and launches twice in each of several fresh stores, that have the converted base where there is one."""
    loads: dict[str, list[float]] = {order: [] for order in ORDER}
    setups: dict[str, list[dict[str, Any]]] = {order: [] for order in ORDER}
    for index in range(options.repeats):
        store = task.folder / f"store-{index}"
        _seed(task, store)
        for order in ORDER:
            loads[order].append(_load_s(task, store, options.threads))
        shutil.rmtree(store)
        _seed(task, store)
        for order in ORDER:
            setups[order].append(_launch(task, store, f"start-{order}", options.threads))
        shutil.rmtree(store)
    return {
        "load_base_s": {order: statistics.median(found) for order, found in loads.items()},
        "load_base": ratio(loads["first"], loads["second"]),
        "setup_s": {order: statistics.median(one["setup_s"] for one in found) for order, found in setups.items()},
        "setup": ratio(*([one["setup_s"] for one in setups[order]] for order in ORDER)),
        "first_trial_s": {
            order: statistics.median(one["first_trial_s"] for one in found) for order, found in setups.items()
        },
        "raw": {"load_base_s": loads, "launches": setups},
    }


def _seed(task: Prepared, store: Path) -> None:
    """A fresh store; a conversion from GGUF takes half a minute once, and is no part of this."""
    (store / "models").mkdir(parents=True)
    source = Path(task.base_folder)
    if source.is_relative_to(task.home.models):
        shutil.copytree(source, store / "models" / source.name)


def _load_s(task: Prepared, store: Path, threads: int) -> float:
    words = ["--model", task.load.model, "--dtype", task.dtype, "--home", str(store)]
    ran = arms.run([sys.executable, "-m", "tests.benchmarks.starts", *words], task.folder / "load", threads)
    return float(json.loads(ran.output)["load_base_s"])


def _launch(task: Prepared, store: Path, name: str, threads: int) -> dict[str, Any]:
    """A launch of one short trial in a store; what it took until it could train."""
    own = [*arms.enqueued(prepared.configurations(1)), "engine.slots=1"]
    found = arms.launch(replace(task, home=Home(store), steps=2), name, threads, *own)
    return {key: found[key] for key in ("setup_s", "first_trial_s", "wall_s", "booked_s")}


def main() -> None:
    """Times `load_base` alone, in this process; imports come before it."""
    parser = argparse.ArgumentParser(description="Times load_base, in a process of its own.")
    for name in ("--model", "--dtype", "--home"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()

    import torch

    from sweeper.models import base

    torch.set_num_threads(1)
    section = prepared.composed("study=demo", f"model={options.model}", f"model.dtype={options.dtype}").model
    home = Home(Path(options.home))
    base.skeleton(section, home)  # a worker has seen the base's modules by then, too
    started = time.perf_counter()
    base.load_base(section, home, torch.device("cpu"), spare_bytes=0)  # or no copy would be written
    print(json.dumps({"load_base_s": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
