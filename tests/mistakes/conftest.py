"""A study that nothing trained: a real Optuna store, real rows, made-up predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config import check
from sweeper.data import rows
from sweeper.mistakes import kept
from sweeper.mistakes.kept import Kept
from sweeper.paths import Home, StudyPaths
from sweeper.search.study import Search
from tests.search.conftest import ask, complete

Make = Callable[..., StudyPaths]
WORDS = ("cancel", "return", "refund", "change")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixteen rows a split; the n-th has n words before its last, and every fourth the same label."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"text": "please " * n + f"[red]{split} {n}", "label": WORDS[n % 4]} for n in range(16)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def make(composed: Any, home: Home, data: Path) -> Make:
    """Makes a study `demo` with a complete trial for each score."""

    def made(*scores: float) -> StudyPaths:
        config = composed("study=demo", "data=files", f"data.path={data}", "search.trials=9")
        paths = home.study("demo")
        paths.create()
        check.save(config, paths)
        search = Search(home, config)
        for score in scores:
            complete(search, ask(search).number, score)
        return paths

    return made


def keep(paths: StudyPaths, number: int | None, wrong: dict[int, tuple[str, float]], split: str = "validation") -> None:
    """Keeps predictions that are right, at 0.95, but for some rows: what is said of those, and how surely."""
    found = []
    for place, row in enumerate(getattr(rows.of(check.load(paths)), split)):
        label, confidence = wrong.get(place, (row.label, 0.95))
        found.append(
            Kept(
                row=row.place,
                sha256=row.sha256,
                tokens=10 + place,
                prediction=label,
                confidence=confidence,
                is_correct=label == row.label,
                truth=row.label,
            )
        )
    kept.write(paths.predictions(number, split), found)
