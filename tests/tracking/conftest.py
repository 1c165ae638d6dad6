from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.server import Server, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    """One server for all tests of a process; each takes an experiment of its own."""
    pytest.importorskip("flask_wtf", reason="MLflow's own authentication needs Flask-WTF: pip install -e '.[dev]'")
    with running_server(tmp_path_factory.mktemp("server"), migrated) as started:
        yield started
