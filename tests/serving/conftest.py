"""A study that was trained, for what is served of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.paths import Home, StudyPaths
from sweeper.tracking.opened import opened
from sweeper.worker.session import Session
from tests.conftest import SHORT, share_formulas


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, few_tickets: Path, formulas: Path, migrated: Path) -> StudyPaths:
    """A short study with one trial."""
    home = Home(tmp_path_factory.mktemp("served") / "store")
    home.create()
    share_formulas(formulas, home.memory)
    shutil.copy(migrated, home.mlflow_file)
    configs: list[Config] = []
    overrides = [*SHORT, f"data.path={few_tickets}", "search.trials=1", "train.examples=16", f"store.home={home.root}"]
    compose.main(overrides, configs.append)
    paths = home.study("demo")
    paths.create()
    check.save(configs[0], paths)
    assert Session(paths, opened(paths, configs[0]), lambda: False).run()["status"] == "finished"
    share_formulas(home.memory, formulas)
    return paths
