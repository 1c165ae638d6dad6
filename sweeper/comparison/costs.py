"""What a side took to train, how large it is, and what it costs to serve where that was measured."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.comparison.sides import Side
from sweeper.exporting.manifest import CONFIG, INFERENCE
from sweeper.paths import Home
from sweeper.report.reading import cost_of
from sweeper.serving import record

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Serving:
    """What `sweeper price-inference` measured.

    Attributes:
        latency_ms: of one request at a time, the median.
        requests_per_s, usd_per_1000: at the batch size with the most requests; dollars where there was a price.
        is_of_trial: whether the trial in its study was measured, and not the export.
    """

    latency_ms: float
    batch: int
    requests_per_s: float
    usd_per_1000: float | None
    device: str
    is_of_trial: bool


@dataclass(frozen=True)
class Costs:
    """Of one side; None is what is not known.

    Attributes:
        usd, seconds: what its training and scoring took in its study, of a device that it may have shared.
        solo_s, usd_solo: what it would have taken alone; an estimate.
        parameters: of the adapter, where that is kept.
    """

    usd: float | None = None
    seconds: float | None = None
    solo_s: float | None = None
    usd_solo: float | None = None
    rank: int | None = None
    parameters: int | None = None
    serving: Serving | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def costs(home: Home, side: Side) -> Costs:
    """What is known of a side."""
    studied, trial = side.studied, side.view
    adapter = side.folder
    if adapter is None and studied is not None and side.owner is not None:
        adapter = studied.paths.adapter(side.owner)
    known: dict[str, Any] = {"serving": _serving(side)}
    if adapter is not None:
        known["parameters"] = parameters(adapter / _WEIGHTS)
    if side.folder is not None:
        known["rank"] = _rank(side.folder)
    if studied is not None and trial is not None:
        known["rank"] = studied.config.trial_params(trial.params).rank
        bill = cost_of(home, studied.seen, studied.config).trial(trial.number)
        cost = bill.cost()
        if bill.bill.lines:
            known |= {name: cost[name] for name in ("usd", "seconds")}
        known |= {name: cost[name] for name in ("solo_s", "usd_solo")}
    return Costs(**known)


def parameters(file: Path) -> int | None:
    """How many numbers a file of weights has, by its header; None where there is no such file."""
    try:
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    except (OSError, ValueError):
        return None
    return sum(int(math.prod(tensor["shape"])) for name, tensor in header.items() if name != "__metadata__")


def _rank(folder: Path) -> int | None:
    try:
        return int(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _serving(side: Side) -> Serving | None:
    """What was measured of the export itself, or else of its trial."""
    if side.folder is not None:
        try:
            found = json.loads((side.folder / INFERENCE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found is not None:
            return _read(found, is_of_trial=False)
    if side.studied is None or side.owner is None:
        return None
    found = record.kept(side.studied.paths, side.owner)
    return None if found is None else _read(found, is_of_trial=side.folder is not None)


def _read(found: dict[str, Any], is_of_trial: bool) -> Serving | None:
    try:
        by_batch = {int(one["batch"]): one for one in found["batches"]}
        best = by_batch[int(found["best_batch"])]
        return Serving(
            latency_ms=float(by_batch[1]["latency_s"]) * 1000,
            batch=int(found["best_batch"]),
            requests_per_s=float(best["requests_per_s"]),
            usd_per_1000=best["usd_per_1000"],
            device=str(found["device"]),
            is_of_trial=is_of_trial,
        )
    except (KeyError, TypeError, ValueError):  # of another version, or damaged: as if it were not measured
        return None
