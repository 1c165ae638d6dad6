"""What is known of a side beside its predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sweeper.comparison.costs import costs, parameters
from sweeper.comparison.sides import side_of
from sweeper.paths import Home
from tests.comparison.conftest import Export, Study, keep, wrong


def served(ms: float, usd: float | None = 0.25) -> dict[str, Any]:
    """What `price-inference` keeps."""
    one = {"batch": 1, "latency_s": ms / 1000, "requests_per_s": 1000 / ms, "usd_per_1000": None}
    best = {"batch": 8, "latency_s": ms / 500, "requests_per_s": 4000 / ms, "usd_per_1000": usd}
    return {"device": "NVIDIA L4", "batches": [one, best], "best_batch": 8}


def test_a_trial_its_base_and_its_export(study: Study, home: Home, export: Export) -> None:
    paths = study("demo")
    for number in (2, None):
        keep(paths, number, wrong(0))
    nothing = costs(home, side_of(home, "demo:base", "test"))
    assert (nothing.usd, nothing.rank, nothing.parameters, nothing.serving) == (None, None, None, None)

    paths.adapter(2).mkdir(parents=True)
    weights = {"a": torch.zeros(4, 16), "b": torch.zeros(16, 4)}
    save_file(weights, paths.adapter(2) / "adapter_model.safetensors", {"format": "pt"})
    paths.inference(2).write_text(json.dumps(served(8.0)))
    trial = side_of(home, "demo", "test")
    found = costs(home, trial)
    assert (found.seconds, found.parameters) == (None, 128)  # nothing is booked of it
    assert trial.view is not None
    assert found.rank == trial.view.params["rank"]
    assert found.serving is not None
    assert (found.serving.latency_ms, found.serving.requests_per_s, found.serving.usd_per_1000) == (8.0, 500.0, 0.25)
    assert found.serving.batch == 8
    assert not found.serving.is_of_trial

    folder = export("demo", 2)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
    of_trial = costs(home, side_of(home, str(folder), "test")).serving
    assert of_trial is not None
    assert of_trial.is_of_trial
    (folder / "inference.json").write_text(json.dumps(served(4.0, None)))
    own = costs(home, side_of(home, str(folder), "test"))
    assert own.serving is not None
    assert (own.serving.latency_ms, own.serving.usd_per_1000, own.serving.is_of_trial) == (4.0, None, False)
    paths.inference(2).write_text(json.dumps({"batches": []}))  # of another version: as if it were not measured
    assert costs(home, trial).serving is None


def test_an_export_alone_knows_its_rank(study: Study, home: Home, export: Export, tmp_path: Path) -> None:
    folder = export("demo", 2, parity={"split": "test", "rows": 16})
    keep(study("demo"), None, wrong(0), to=folder / "predictions.jsonl")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
    nowhere = Home(tmp_path / "nowhere")
    found = costs(nowhere, side_of(nowhere, str(folder), "test"))
    assert (found.rank, found.parameters, found.usd, found.serving) == (4, None, None, None)


def test_a_file_of_weights_that_is_none(tmp_path: Path) -> None:
    assert parameters(tmp_path / "missing") is None
    (tmp_path / "short").write_bytes(b"abc")
    assert parameters(tmp_path / "short") is None
