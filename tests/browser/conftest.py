"""A browser for each module, and finished studies to look at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from sweeper.paths import Home
from tests.browser.browsing import CURE, browsing, chromium
from tests.conftest import SHORT

FULL = os.environ.get("SWEEPER_TESTS") == "all"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed at the end of each module: while it is open, an event loop runs in this thread."""
    if chromium() is None:
        pytest.skip(CURE)
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, few_tickets: Path) -> Home:
    """A store with the study `demo`: two trials are complete, and one is stopped, for it has wrecked the base."""
    folder = tmp_path_factory.mktemp("finished")
    passages = folder / "passages.jsonl"
    bundled = (resources.files("sweeper.retention") / "bundled" / "passages.jsonl").read_text(encoding="utf-8")
    passages.write_text("\n".join(bundled.splitlines()[:8]), encoding="utf-8")
    starts = (
        "{rank:16,alpha_ratio:2.0,learning_rate:0.002},{rank:8,alpha_ratio:2.0,learning_rate:0.001},"
        "{rank:8,alpha_ratio:2.0,learning_rate:0.03}"
    )
    home = Home(folder / "store")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sweeper", "launch", *SHORT, f"data.path={few_tickets}", "train.examples=128"),
            *("engine.slots=3", f"retention.passages={passages}", "retention.sample=8", "retention.max_tokens=64"),
            *("sampler=random", f"search.enqueue=[{starts}]"),
        ],
        env={**os.environ, "SWEEPER_HOME": str(home.root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return home
