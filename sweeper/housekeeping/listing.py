"""`sweeper list`: every study of the store, a line each; one that is broken does not hide the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.exc import SQLAlchemyError

from sweeper import outcome
from sweeper.config import check
from sweeper.errors import StoreError, SweeperError
from sweeper.money.account import sums
from sweeper.money.bill import Bill
from sweeper.paths import Home, StudyPaths, is_valid_name
from sweeper.search.running import running
from sweeper.search.storage import open_storage
from sweeper.search.views import StudyView, is_finished, read

READING = (SweeperError, SQLAlchemyError, OSError, ValueError, KeyError, TypeError, AttributeError)


class State(StrEnum):
    """What a study is."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"  # launched again, it goes on
    FINISHED = "finished"
    EMPTY = "no trials yet"
    DAMAGED = "damaged"


@dataclass
class StudyLine:
    """One study; None is what cannot be known of it."""

    name: str
    state: State
    detail: str | None = None  # who runs it, what ended it, or what is damaged
    done: int | None = None  # trials that have ended
    total: int | None = None
    metric: str | None = None
    best: float | None = None
    best_trial: int | None = None
    model: str | None = None
    changed: str | None = None  # ISO 8601, UTC
    size_bytes: int = 0  # of its folder and its artifacts
    usd: float | None = None  # None: nothing of it has a price
    device_s: float | None = None  # None: nothing is booked of it
    unpriced_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def studies(home: Home) -> list[StudyLine]:
    """All studies of the store, by name.

    Raises:
        StoreError: if there is no store, or Optuna's cannot be opened.
    """
    storage = optuna_store(home)
    asked = _asked(storage)
    lines = [_line(home.study(name), storage if name in asked else None) for name in _names(home, asked)]
    costs = _costs(storage)
    for line in lines:
        if (cost := costs.get(line.name)) is not None:
            line.usd, line.device_s, line.unpriced_s = cost.usd, cost.seconds, cost.unpriced_s
    return lines


def _costs(storage: optuna.storages.RDBStorage | None) -> dict[str, Bill]:
    """What each study has cost; nothing where that cannot be read, which `sweeper cost` says."""
    if storage is None:
        return {}
    try:
        return sums(storage.engine)
    except READING:
        return {}


def names(home: Home) -> list[str]:
    """The names of all studies, with a folder or in Optuna's store alone; raises StoreError as `studies` does."""
    return _names(home, _asked(optuna_store(home)))


def optuna_store(home: Home) -> optuna.storages.RDBStorage | None:
    """Optuna's storage; None where no study has asked for a trial yet. Raises StoreError as `studies` does."""
    if not home.root.is_dir():
        raise StoreError(f"there is no store at {home.root}; launch a study there, or set SWEEPER_HOME")
    return open_storage(home) if home.has_optuna else None


def _asked(storage: optuna.storages.BaseStorage | None) -> set[str]:
    return set(optuna.study.get_all_study_names(storage)) if storage is not None else set()


def _names(home: Home, asked: set[str]) -> list[str]:
    folders = {folder.name for folder in home.studies.iterdir() if folder.is_dir()} if home.studies.is_dir() else set()
    return sorted(name for name in folders | asked if is_valid_name(name))


def _line(paths: StudyPaths, storage: optuna.storages.BaseStorage | None) -> StudyLine:
    line = StudyLine(paths.name, State.EMPTY)
    problems = []
    seen: StudyView | None = None
    config = None
    try:
        config = check.load(paths)
        line.total, line.metric, line.model = config.search.trials, config.objective.metric_name, config.model.name
    except READING as error:
        if storage is None and paths.root.is_dir() and not paths.config.exists():
            line.detail = "its launch was refused, or ended, before there was anything; launched again, it begins"
        else:
            problems.append(_reason(error))
    if storage is not None:
        try:
            seen = read(storage, paths.name)
            line.done = sum(trial.counts for trial in seen.trials)
            if seen.best is not None:
                line.best, line.best_trial = seen.best.value, seen.best.number
            if config is not None and is_finished(seen, config):
                line.state = State.FINISHED
            elif seen.trials:
                line.state = State.INTERRUPTED
                line.detail = _ended_with(paths)
        except READING as error:
            problems.append(f"its trials cannot be read: {_reason(error)}")
    if paths.deleting.exists():
        problems = [f"half deleted; `sweeper clean {paths.name} --whole --yes` completes it"]
    if problems:
        line.state, line.detail = State.DAMAGED, "; ".join(problems)
    try:
        if (found := running(paths)) is not None:
            line.state, line.detail = State.RUNNING, "; ".join([str(found), *problems])
        line.size_bytes = sum(size_bytes(folder) for folder in (paths.root, paths.home.artifacts / paths.name))
        line.changed = _changed(paths)
    except OSError as error:
        line.state, line.detail = State.DAMAGED, "; ".join([*problems, _reason(error)])
    return line


def _reason(error: BaseException) -> str:
    words = str(error) if isinstance(error, SweeperError) else f"{type(error).__name__}: {error}"
    return " ".join(words.split())


def _ended_with(paths: StudyPaths) -> str | None:
    """The error that ended the last worker, if one did."""
    found = outcome.last(paths)
    return found.why() if found is not None and found.status == outcome.ERROR else None


def _files(folder: Path) -> Iterator[os.stat_result]:
    """Every file under a folder, links not followed; one that goes meanwhile is left out."""
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                yield os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue


def size_bytes(path: Path) -> int:
    """What a file or a folder takes; 0 where there is none."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(stat.st_size for stat in _files(path))


def _changed(paths: StudyPaths) -> str | None:
    """When a file of the study was last written; a lock says nothing of that."""
    if not paths.root.is_dir():
        return None
    files = [file for file in paths.root.iterdir() if file.is_file() and file.suffix != ".lock"]
    times = [file.lstat().st_mtime for file in files] or [paths.root.stat().st_mtime]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds")
