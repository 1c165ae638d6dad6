"""A tracker that keeps its runs in memory, for tests to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.tracking.tracker import NOTE_TAG, STUDY, DatasetUse, RunKey, RunState, Tracker


@dataclass
class MemoryRun:
    """One run of a MemoryTracker."""

    name: str
    state: RunState
    params: dict[str, object]
    tags: dict[str, str]
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    datasets: tuple[DatasetUse, ...] = ()


class MemoryTracker(Tracker):
    """Keeps the runs in a dictionary."""

    def __init__(self) -> None:
        self.runs: dict[RunKey, MemoryRun] = {}

    @property
    def place(self) -> str:
        return "memory"

    def start(self, key: RunKey, name: str, params: dict[str, object], tags: dict[str, str]) -> None:
        if key in self.runs:
            self.runs[key].state = RunState.RUNNING
            self.runs[key].tags.update(tags)
        else:
            self.runs[key] = MemoryRun(name, RunState.RUNNING, dict(params), dict(tags))

    def log(self, key: RunKey, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.runs[key].metrics.setdefault(name, []).append((step, value))

    def log_datasets(self, key: RunKey, datasets: Sequence[DatasetUse]) -> None:
        self.runs[key].datasets = tuple(datasets)

    def log_file(self, key: RunKey, file: Path, folder: str | None = None) -> None:
        file.stat()  # raises as a store does where there is nothing to copy
        names = sorted(item.name for item in file.iterdir()) if file.is_dir() else [file.name]
        self.runs[key].files.setdefault(folder or "", []).extend(names)

    def drop_files(self, key: RunKey, folder: str) -> None:
        self.runs[key].files.pop(folder, None)

    def end(self, key: RunKey, state: RunState, tags: dict[str, str]) -> None:
        self.runs[key].state = state
        self.runs[key].tags.update(tags)

    def describe(self, text: str) -> None:
        if STUDY in self.runs:
            self.runs[STUDY].tags[NOTE_TAG] = text

    def log_missing(self, key: RunKey, metric: str, points: Sequence[tuple[int, dict[str, float]]]) -> None:
        there = {step for step, _ in self.runs[key].metrics.get(metric, ())}
        for step, metrics in points:
            if step not in there:
                self.log(key, metrics, step)

    def has(self, key: RunKey) -> bool:
        return key in self.runs

    def flush(self) -> bool:
        return True  # nothing is kept back

    def states(self) -> dict[RunKey, RunState]:
        return {key: run.state for key, run in self.runs.items()}
