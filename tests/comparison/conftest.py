"""Studies that nothing trained: real stores, real rows, made-up predictions, and a folder as an export leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeper.config import check
from sweeper.custom import own
from sweeper.data import rows
from sweeper.mistakes import kept
from sweeper.mistakes.kept import Kept
from sweeper.paths import Home, StudyPaths
from sweeper.search.study import Search
from sweeper.tasks.task import scoring_task
from tests.mistakes.conftest import data as data
from tests.search.conftest import ask

Study = Callable[..., StudyPaths]
Export = Callable[..., Path]


@pytest.fixture
def study(composed: Any, home: Home, data: Path) -> Study:
    """Makes a study with a complete trial for each score; the last two, as winner and runner-up, are tested."""

    def made(name: str, *overrides: str, scores: Sequence[float] = (0.5, 0.6, 0.7)) -> StudyPaths:
        asked = [f"study.name={name}", "data=files", f"data.path={data}", "search.trials=9", *overrides]
        config = composed("study=demo", *asked)
        paths = home.study(name)
        paths.create()
        check.save(config, paths)
        brought = own.load(config)
        brought.keep(paths.code)
        search = Search(home, config)
        for score in scores:
            number, value = ask(search).number, 1 - score if config.objective.is_minimized else score
            metrics = {config.objective.metric_name: value}
            course = [{"examples": 16.0, **metrics}]
            search.report(number, course, may_prune=False)
            search.complete(number, value, {"metrics": metrics, "curve": course, "duration_s": 1.0}, {})
        search.remember("data_sha256", "of the rows")
        search.remember("code_sha256", brought.sha256)
        winner, second = len(scores) - 1, len(scores) - 2
        scored = {"accuracy": 0.5, "accuracy_se": 0.1}
        test = {"trial": winner, "rows": 16, "looks": 1, "scored": [second, winner], "winner": scored, "base": scored}
        search.remember("test", {**test, "majority": scored, "runner_up": {"trial": second, "scores": scored}})
        return paths

    return made


def keep(
    paths: StudyPaths, number: int | None, said: Sequence[str | None], split: str = "test", to: Path | None = None
) -> list[Kept]:
    """Keeps predictions; None is what is right."""
    config = check.load(paths)
    brought = own.load(config, paths.code)
    found = getattr(rows.of(config, paths.splits, brought), split)
    task = scoring_task(config.task, brought.task, brought.metric, config.data.columns.label)
    texts = [(row.label or row.answers[0]) if text is None else text for row, text in zip(found, said, strict=True)]
    made = [
        Kept(
            row=row.place,
            sha256=row.sha256,
            tokens=10 + place,
            prediction=text,
            confidence=0.9 - place / 100,
            **task.judged(row, text),
        )
        for place, (row, text) in enumerate(zip(found, texts, strict=True))
    ]
    kept.write(to or paths.predictions(number, split), made)
    return made


def wrong(*places: int, rows: int = 16, text: str = "nothing") -> list[str | None]:
    """Predictions that are right, but for some rows."""
    return [text if place in places else None for place in range(rows)]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Makes a folder as an export leaves it, without an adapter."""

    def made(study: str, trial: int, name: str = "exported", task: str = "classification", **more: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        manifest = {"study": study, "trial": trial, "task": {"name": task}, "data_sha256": "of the rows"}
        manifest |= {"model": {}, "prompt": {}, "columns": {}, "labels": [], "sha256": {}, **more}
        (folder / "sweeper.json").write_text(json.dumps(manifest))
        return folder

    return made
