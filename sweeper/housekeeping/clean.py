"""`sweeper clean`: what of the store can go without a loss, and deleting it.

Whatever is not known as sweeper's stays, and so do studies that run. What is found of a study is looked up and
deleted while launchers and workers of it are kept out.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

import optuna
import psutil

from sweeper.config import check
from sweeper.errors import StoreError, SweeperError, unknown
from sweeper.housekeeping.listing import names, optuna_store, size_bytes
from sweeper.housekeeping.removal import children, is_aside, link_in, remove, whole_name
from sweeper.learning.request import side_trial
from sweeper.models import copies
from sweeper.paths import Home, StudyPaths, is_valid_name
from sweeper.search.running import idle, refuse_if_running, running
from sweeper.search.views import StudyView, is_finished, kept_adapters, read
from sweeper.tracking.mlflow_cleaning import RUN_ID, Experiment, MlflowStore
from sweeper.trial import RunKind


class Kind(StrEnum):
    """What can go."""

    ADAPTERS = "adapters"
    CHECKPOINTS = "checkpoints"
    TEMPORARY = "temporary"
    DELETED = "deleted"
    CACHES = "caches"


USUAL = (Kind.ADAPTERS, Kind.CHECKPOINTS, Kind.TEMPORARY, Kind.DELETED)  # caches would be made again
_WRITTEN = "|".join(map(re.escape, sorted(StudyPaths(Home(Path()), "any").written)))
HALF_WRITTEN = re.compile(  # by `paths.write_atomically`, and by `custom.sources`
    rf"\.code\.tmp|\.({_WRITTEN}|\d+(\.outcome)?\.json|(runtime|formula-\w+|calibration-\w+)\.json|\w+\.png)"
    r"\.[a-z0-9_]{8}"
)
_HALF_PACE = re.compile(r"\.[\w.-]+\.json\.[a-z0-9_]{8}")  # `money.pace`: whatever a model and a device are called
_HALF_FOLDERS = {".checkpoint.safetensors.tmp", ".adapter.tmp", ".mirror"}
_CONVERTING = re.compile(r"\.[A-Za-z0-9][A-Za-z0-9._-]*\.(\d+)")  # `models`: a model, and who converts or copies it
_ADAPTER = "adapter"
STALE_S = 3600  # after which nobody is writing a file that belongs to no study


@dataclass(frozen=True)
class Item:
    """One thing that can go."""

    kind: Kind
    path: Path
    why: str
    before: Callable[[], None] | None = None  # what must be written before the path goes
    after: Callable[[], None] | None = None  # what goes once the path has gone


@dataclass
class Cleaning:
    """What was found, or deleted.

    Attributes:
        notes: what was left alone, and why.
    """

    items: int = 0
    size_bytes: int = 0
    notes: list[str] = field(default_factory=list)


class Cleaner:
    """Cleans one store.

    Args:
        deletes: False: everything is only found.
        announce: takes each item, with its size in bytes, once it is found, or once it is deleted.
    """

    def __init__(self, home: Home, deletes: bool, announce: Callable[[Item, int], None]) -> None:
        self._home, self._deletes, self._announce = home, deletes, announce
        self._storage = optuna_store(home)
        asked = optuna.study.get_all_study_names(self._storage) if self._storage is not None else []
        self._asked = set(asked)
        self._names = names(home)
        self._mlflow = MlflowStore(home) if home.mlflow_file.is_file() else None
        self._result = Cleaning()

    def clean(self, chosen: Sequence[str], kinds: Sequence[Kind]) -> Cleaning:
        """Cleans the studies `chosen`; without one, all that do not run, and what belongs to none.

        Raises:
            StoreError: if one of them is unknown or runs, or something cannot be deleted; what was announced before is
                deleted.
        """
        for name in chosen:
            paths = self._home.study(name)
            if name not in self._names:
                raise StoreError(f"{unknown('study', name, self._names)} (store: {self._home.root})")
            refuse_if_running(paths)
        for name in chosen or self._names:
            self._study(self._home.study(name), kinds)
        if not chosen:
            self._take(self._of_no_study(kinds))
        return self._result

    def _study(self, paths: StudyPaths, kinds: Sequence[Kind]) -> None:
        if running(paths) is not None:
            self._result.notes.append(f"{paths.name} runs, and is left alone")
            return
        if paths.root.is_symlink():
            self._result.notes.append(f"{paths.root} is a link, and is left alone")
            return
        if paths.name not in self._asked and not paths.launcher_lock.exists():
            return  # no launcher was ever here
        if paths.deleting.exists():
            self._result.notes.append(f"{paths.name} is half deleted; `sweeper clean {paths.name} --whole` is for that")
            return
        with idle(paths) if self._deletes and paths.root.is_dir() else nullcontext():
            self._take(self._of_study(paths, kinds))

    def _take(self, items: Iterator[Item]) -> None:
        for item in list(items):
            if (link := link_in(self._home, item.path)) is not None:
                self._result.notes.append(f"{link} is a link, and what lies behind it is left alone")
                continue
            size = size_bytes(item.path)
            if self._deletes:
                if item.before is not None:
                    item.before()
                remove(self._home, item.path)
                if item.after is not None:
                    item.after()
            self._result.items += 1
            self._result.size_bytes += size
            self._announce(item, size)

    def _of_study(self, paths: StudyPaths, kinds: Sequence[Kind]) -> Iterator[Item]:
        if Kind.TEMPORARY in kinds:
            own = paths.root, paths.workers, paths.base, paths.pictures
            for folder in (*own, *_trial_folders(paths).values(), *children(paths.side)):
                yield from self._half_written(folder)
        seen = read(self._storage, paths.name) if self._storage is not None and paths.name in self._asked else None
        if seen is not None and seen.trials:  # else nothing could be told apart
            if Kind.ADAPTERS in kinds:
                yield from self._adapters(paths, seen)
            if Kind.CHECKPOINTS in kinds:
                yield from self._checkpoints(paths, seen)
        experiment = self._mlflow.experiments.get(paths.name) if self._mlflow is not None else None
        if Kind.DELETED in kinds and experiment is not None:
            yield from self._deleted_runs(experiment)

    def _adapters(self, paths: StudyPaths, seen: StudyView) -> Iterator[Item]:
        try:
            config = check.load(paths)
        except SweeperError as error:
            reason = " ".join(str(error).split())
            self._result.notes.append(
                f"the adapters of {paths.name} are left alone, for want of its settings: {reason}"
            )
            return
        kept = kept_adapters(seen, paths, config)
        told = {trial.number for trial in seen.trials if trial.is_told}
        untold = {trial.number for trial in seen.trials} - told  # one that is not told yet may be about to be

        def gone(number: int) -> Callable[[], None]:
            def forget() -> None:  # or a worker would believe that MLflow has what comes back by a rerun
                study = optuna.load_study(study_name=paths.name, storage=self._storage)
                tracked = study.user_attrs.get("adapters", [])
                if number in tracked:
                    study.set_user_attr("adapters", [other for other in tracked if other != number])

            return forget

        count = config.store.keep_adapters
        why = f"not of the best {count} (store.keep_adapters)"
        for number in _trial_folders(paths):
            if number not in kept and number not in untold and paths.adapter(number).is_dir():
                words = why if number in told else "of no trial"
                yield Item(Kind.ADAPTERS, paths.adapter(number), words, before=gone(number))
        # MLflow may have the last copy of one of the best, where that on the disk is lost.
        best = [trial.number for trial in seen.ranked][:count]
        experiment = self._mlflow.experiments.get(paths.name) if self._mlflow is not None else None
        for run in experiment.runs if experiment is not None else ():
            copy = self._home.artifacts / paths.name / run.run_id / "artifacts" / _ADAPTER
            number = -1 if run.trial is None else run.trial
            if number in told and number not in {*kept, *best} and copy.is_dir():
                yield Item(Kind.ADAPTERS, copy, f"MLflow's copy of trial {number}'s, {why}", before=gone(number))

    def _checkpoints(self, paths: StudyPaths, seen: StudyView) -> Iterator[Item]:
        untold = {trial.number for trial in seen.trials if not trial.is_told}
        for number in _trial_folders(paths):
            if number not in untold and paths.checkpoint(number).is_file():
                yield Item(Kind.CHECKPOINTS, paths.checkpoint(number), "its trial has ended")
        is_finished = _is_finished(paths, seen)
        for kind, number in paths.side_runs():
            file = paths.side_checkpoint(kind, number)
            if not file.is_file():
                continue
            if paths.side_result(kind, number).is_file():
                yield Item(Kind.CHECKPOINTS, file, "its training has ended")
            elif is_finished and not _may_go_on(kind, number, seen):
                yield Item(Kind.CHECKPOINTS, file, "its training was given up, for the study is finished")

    def _deleted_runs(self, experiment: Experiment) -> Iterator[Item]:
        """Of a study that is there: what is in MLflow's bin, and folders of runs that MLflow has no more."""
        mlflow = self._mlflow
        assert mlflow is not None
        if experiment.is_deleted and experiment.is_ours:
            after = partial(mlflow.delete_experiment, experiment)
            yield Item(
                Kind.DELETED, mlflow.folder(experiment.name), "its experiment was deleted in MLflow", after=after
            )
            return
        for run in experiment.runs:
            if run.is_deleted and run.is_ours:
                path = mlflow.folder(experiment.name, run.run_id)
                yield Item(Kind.DELETED, path, "deleted in MLflow", after=partial(mlflow.delete_run, run.run_id))
        known = {run.run_id for run in experiment.runs}
        for folder in children(mlflow.folder(experiment.name)):
            if (RUN_ID.fullmatch(folder.name) and folder.name not in known) or is_aside(folder):
                yield Item(Kind.DELETED, folder, "of a run that MLflow has no more")

    def _of_no_study(self, kinds: Sequence[Kind]) -> Iterator[Item]:
        if Kind.DELETED in kinds and self._mlflow is not None:
            yield from self._deleted_experiments(self._mlflow)
        if Kind.TEMPORARY in kinds:
            yield from self._half_deleted()
        if Kind.CACHES in kinds:
            yield from self._caches()

    def _deleted_experiments(self, mlflow: MlflowStore) -> Iterator[Item]:
        for name, experiment in mlflow.experiments.items():
            if name not in self._names and is_valid_name(name):
                if not experiment.is_ours:
                    self._result.notes.append(f"MLflow's experiment {name} has runs that are not sweeper's; left alone")
                    continue
                after = partial(mlflow.delete_experiment, experiment)
                yield Item(
                    Kind.DELETED, mlflow.folder(name), "the study is gone; with its MLflow experiment", after=after
                )
        for folder in children(self._home.artifacts):
            if folder.name in mlflow.experiments or folder.name in self._names or not is_valid_name(folder.name):
                continue
            if all(RUN_ID.fullmatch(run.name) or is_aside(run) for run in children(folder)):
                yield Item(Kind.DELETED, folder, "no study and no MLflow experiment has this name")
            else:
                self._result.notes.append(f"{folder} is not sweeper's, and is left alone")

    def _half_written(self, folder: Path) -> Iterator[Item]:
        for path in children(folder):
            if HALF_WRITTEN.fullmatch(path.name) or path.name in _HALF_FOLDERS:
                yield Item(Kind.TEMPORARY, path, "half written")
            elif is_aside(path) and whole_name(path) == _ADAPTER:
                yield Item(Kind.TEMPORARY, path, "half deleted")

    def _half_deleted(self) -> Iterator[Item]:
        for folder in (self._home.studies, self._home.artifacts, self._home.models):
            for path in children(folder):
                if is_aside(path) and is_valid_name(whole_name(path)):
                    yield Item(Kind.TEMPORARY, path, "half deleted")
        for folder, pattern in ((self._home.memory, HALF_WRITTEN), (self._home.pace, _HALF_PACE)):
            for path in children(folder):
                if pattern.fullmatch(path.name) and _is_stale(path):
                    yield Item(Kind.TEMPORARY, path, "half written")
        for path in children(self._home.models):
            writer = _CONVERTING.fullmatch(path.name)
            if writer and not psutil.pid_exists(int(writer[1])) and _is_stale(path):
                yield Item(Kind.TEMPORARY, path, "half written")

    def _caches(self) -> Iterator[Item]:
        busy = [name for name in self._names if running(self._home.study(name)) is not None]
        if busy:
            self._result.notes.append(f"caches are left alone while {', '.join(busy)} runs")
            return
        for path in children(self._home.models):
            if not is_valid_name(path.name):
                continue
            if (path / copies.MANIFEST).is_file():
                yield Item(Kind.CACHES, path, "quantised again when it is used")
            elif (path / "config.json").is_file():
                yield Item(
                    Kind.CACHES, path, "converted again when it is used; exports of it may name it as their base"
                )
        for path in children(self._home.memory):
            if re.fullmatch(r"formula-[0-9a-f]+\.json", path.name):
                yield Item(Kind.CACHES, path, "computed again when it is used")


def _trial_folders(paths: StudyPaths) -> dict[int, Path]:
    """The folders of trials, by number; a link in place of one is none."""
    folders = {int(path.name): path for path in children(paths.trials) if re.fullmatch(r"\d{4,}", path.name)}
    return {number: path for number, path in folders.items() if path == paths.trial(number) and not path.is_symlink()}


def _is_finished(paths: StudyPaths, seen: StudyView) -> bool:
    try:
        return is_finished(seen, check.load(paths))
    except SweeperError:  # nothing is known of a study without its settings
        return False


def _may_go_on(kind: str, number: int, seen: StudyView) -> bool:
    """Whether a side run of a finished study may be asked for again: the learning curve of its winner."""
    best = seen.best
    return kind == RunKind.LEARNING_CURVE and best is not None and side_trial(number) == best.number


def _is_stale(path: Path) -> bool:
    newest = max([path.lstat().st_mtime, *(os.lstat(file).st_mtime for file in children(path))])
    return time.time() - newest > STALE_S
