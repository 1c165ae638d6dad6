"""What else a launch brings or costs: pruning, the value found in a pack, and the quality of equal work."""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from typing import Any

from tests.benchmarks import arms
from tests.benchmarks.paired import mean_difference
from tests.benchmarks.prepared import Prepared

# Well trained ones: where the greedy answer of a model is no label, only a score over the labels has a value.
QUALITY = [
    {"rank": rank, "alpha_ratio": 1.0, "learning_rate": rate} for rate in (1.0e-3, 2.0e-3, 3.0e-3) for rank in (16, 64)
]


def measure(task: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "pruning": pruning(task, options),
        "search": search(task, options),
        "quality": quality(task, options),
    }


def pruning(task: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    """A search of the same seed with the median pruner and without: seconds for each trial of it."""
    common = [f"engine.slots={options.pack}", f"search.trials={options.search_trials}", "search.seed=0"]
    common += [f"evaluation.count={min(4, task.steps)}"]
    raw: dict[str, list[Any]] = {"none": [], "median": []}
    for index in range(options.search_seeds or task.load.search_seeds):
        for pruner, found in raw.items():
            own = [f"pruner={pruner}", *common]
            found.append(arms.launch(task, f"pruner-{pruner}-{index}", options.threads, *own))
    each_s = {name: [one["search_s"] / len(one["trials"]) for one in found] for name, found in raw.items()}
    ended = [trial["state"] for one in raw["median"] for trial in one["trials"]]
    return {
        "raw": raw,
        "s_per_trial": {name: statistics.median(seconds) for name, seconds in each_s.items()},
        "factor": statistics.median(each_s["none"]) / statistics.median(each_s["median"]),
        "pruned_share": ended.count("PRUNED") / len(ended),
    }


def search(task: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    """The best value of as many trials of TPE, one after another and in a pack; for several seeds."""
    raw: dict[str, list[Any]] = {"1": [], str(options.pack): []}
    for seed in range(options.search_seeds or task.load.search_seeds):
        for slots, found in raw.items():
            own = [f"engine.slots={slots}", f"search.trials={options.search_trials}", f"search.seed={seed}"]
            found.append(arms.launch(task, f"search-{slots}-{seed}", options.threads, *own))
    best = {slots: [one["best_value"] or 0.0 for one in found] for slots, found in raw.items()}
    return {
        "raw": raw,
        "best_values": best,
        "packed_less_alone": mean_difference(best[str(options.pack)], best["1"]),
    }


def quality(task: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    """The same configurations, trained longer, by the peer and in a pack: the difference of their accuracy."""
    chosen = QUALITY[: options.quality_trials]
    steps, batch_size = task.load.quality
    longer = replace(task, load=replace(task.load, batch_size=batch_size), steps=options.quality_steps or steps)
    before = task.params.read_text(encoding="utf-8")
    task.params.write_text(json.dumps(chosen), encoding="utf-8")
    try:
        theirs = arms.peer(longer, "quality", len(chosen), options.threads)
    finally:
        task.params.write_text(before, encoding="utf-8")
    ours = {
        slots: arms.launch(longer, f"quality-{slots}", options.threads, f"engine.slots={slots}", *arms.enqueued(chosen))
        for slots in sorted({1, min(options.pack, len(chosen))})
    }
    values = {slots: [_value(one, params) for params in chosen] for slots, one in ours.items()}
    peer = [trial["accuracy"] for trial in theirs["trials"]]
    return {
        "raw": {"peer": theirs, "ours": ours},
        "accuracy": {"peer": peer, **values},
        "ours_less_peer": {slots: mean_difference(found, peer) for slots, found in values.items()},
        "batch_size": longer.load.batch_size,
        "steps": longer.steps,
    }


def _value(one: dict[str, Any], params: dict[str, Any]) -> float:
    """Of a trial that was told without a value, nothing was right."""
    found = [trial["value"] for trial in one["trials"] if trial["params"] == params]
    return float(found[0] or 0.0) if found else 0.0
