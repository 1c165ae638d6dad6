"""Exports of a study that was trained on a CUDA device; without MLflow, which they do not need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.exporting.export import Wanted, export
from sweeper.exporting.formats import ADAPTER, MERGED
from sweeper.paths import Home, StudyPaths
from sweeper.worker.session import Session
from tests.memory_tracker import MemoryTracker

OVERRIDES = (
    "study=demo",
    "search.trials=1",
    "search.enqueue=[{rank: 16, alpha_ratio: 2.0, learning_rate: 1.0e-3}]",
    "train.examples=1200",
    "confirmation.top=0",
    "pruner=none",
    "retention.sample=8",
    "retention.max_rise=100",
    "retention.max_drop=1",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    home = Home(tmp_path_factory.mktemp("card") / "store")
    home.create()
    configs: list[Config] = []
    compose.main([*OVERRIDES, "tracking.report=false", f"store.home={home.root}"], configs.append)
    paths = home.study("demo")
    paths.create()
    check.save(configs[0], paths)
    assert Session(paths, MemoryTracker(), lambda: False).run()["status"] == "finished"
    return paths


@pytest.mark.gpu
@pytest.mark.parametrize("form", [ADAPTER, MERGED])
def test_it_answers_as_it_did(trained: StudyPaths, tmp_path: Path, form: str) -> None:
    manifest = export(trained.home, "demo", tmp_path / "out", Wanted(form=form, force=True), print)
    found = manifest["parity"]
    print(json.dumps(found))
    assert found["holds"], found["problems"]
    assert found["device"].startswith("cuda")
    assert manifest["dtype"] == "bfloat16"
