"""Studies that run in this process: the real base, real data, a real Optuna store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config import check
from sweeper.paths import Home, StudyPaths
from tests.conftest import SHORT

Prepare = Callable[..., StudyPaths]


@pytest.fixture(autouse=True)
def _formulas(known_formulas: None) -> None:
    """A trace takes seconds."""


@pytest.fixture
def prepare(composed: Any, home: Home, few_tickets: Path) -> Prepare:
    """Writes a short study's configuration, as the launcher does."""

    def write(*overrides: str) -> StudyPaths:
        config = composed(*SHORT, f"data.path={few_tickets}", *overrides)
        paths = home.study(config.study.name)
        paths.root.mkdir(parents=True, exist_ok=True)
        check.save(config, paths)
        return paths

    return write
