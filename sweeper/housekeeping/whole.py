"""Deleting a study everywhere: its runs in MLflow, its trials in Optuna, its folder.

Before the first of them a mark is left in the folder, which goes last. So an interruption leaves a study that is
either whole or marked; no launcher takes a marked one, and the same command deletes what is left of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from sweeper.errors import StoreError, TrackingError, unknown
from sweeper.housekeeping.clean import HALF_WRITTEN
from sweeper.housekeeping.listing import names, optuna_store, size_bytes
from sweeper.housekeeping.removal import aside_of, children, is_aside, link_in, remove
from sweeper.money.ledger import Ledger
from sweeper.paths import Home, StudyPaths
from sweeper.search.leases import Leases
from sweeper.search.running import idle, refuse_if_running
from sweeper.search.study import IN_TURN, LEADING
from sweeper.tracking.mlflow_cleaning import RUN_ID, MlflowStore, ServerRuns
from sweeper.tracking.place import record


@dataclass(frozen=True)
class Part:
    """One place where a study is, and how it goes from there."""

    what: str
    size_bytes: int
    delete: Callable[[], None]


def found_whole(home: Home, name: str) -> list[Part]:
    """What there is of a study, in the order in which it goes; nothing is changed.

    Raises:
        StoreError: if there is no such study, it runs, or something of it is not sweeper's or cannot be deleted.
    """
    paths = home.study(name)
    known = names(home)
    if name not in known and not aside_of(paths.root).is_dir():
        raise StoreError(f"{unknown('study', name, known)} (store: {home.root})")
    refuse_if_running(paths)
    return _parts(paths)


def delete_whole(home: Home, name: str, announce: Callable[[Part], None]) -> None:
    """Deletes a study everywhere, and says each part once it has gone.

    Raises:
        StoreError: as `found_whole`, and then nothing is changed; or if a part could not be deleted after all.
    """
    found_whole(home, name)
    paths = home.study(name)
    if name not in names(home):  # all that is left is a folder that was being deleted
        _delete(_parts(paths), announce)
        return
    paths.create()
    with idle(paths):
        parts = _parts(paths)  # again: a launcher may have been there until now
        try:
            paths.deleting.touch()
        except OSError as error:
            raise StoreError(f"{paths.root} must be a folder that can be written, but: {error.strerror}") from error
        _delete(parts, announce)


def _delete(parts: list[Part], announce: Callable[[Part], None]) -> None:
    for part in parts:
        part.delete()
        announce(part)


def _parts(paths: StudyPaths) -> list[Part]:
    home, name = paths.home, paths.name
    artifacts = home.artifacts / name
    _refuse_what_is_not_ours(paths, artifacts)
    parts = list(_on_servers(paths))
    if home.mlflow_file.is_file():
        mlflow = MlflowStore(home)
        experiment = mlflow.experiments.get(name)
        if experiment is not None:
            if not experiment.is_ours:
                raise StoreError(
                    f"a study is deleted with its MLflow experiment, but {name!r} has runs there that are not "
                    "sweeper's; move or delete those first"
                )
            words = f"MLflow's experiment {name} ({len(experiment.runs)} runs)"
            parts.append(Part(words, 0, partial(mlflow.delete_experiment, experiment)))
    parts += _folders(home, artifacts)
    storage = optuna_store(home)
    if storage is not None and name in optuna.study.get_all_study_names(storage):
        study_id = storage.get_study_id_from_name(name)
        words = f"Optuna's study {name} ({storage.get_n_trials(study_id)} trials)"
        parts.append(Part(words, 0, partial(_delete_trials, home, storage, study_id)))
    return [*parts, *_folders(home, paths.root)]


def _on_servers(paths: StudyPaths) -> Iterator[Part]:
    """The study's own runs on tracking servers; experiments stay, which others may use."""
    kept = record(paths)
    for place in kept.places if kept is not None else ():
        try:
            runs = ServerRuns(place, kept.study_id if kept else "")
        except TrackingError as error:
            raise TrackingError(
                f"a study is deleted everywhere or nowhere, but it has runs in {place}: {error}; nothing was deleted. "
                f"Where they are to stay, delete {paths.tracking} first"
            ) from error
        if runs.ids:
            words = f"{len(runs.ids)} runs in {place} (into MLflow's bin; `mlflow gc` on the server empties it)"
            yield Part(words, 0, runs.delete)


def _folders(home: Home, folder: Path) -> Iterator[Part]:
    """A folder, and what an earlier interruption left of it."""
    for path in (aside_of(folder), folder):
        if path.is_dir():
            yield Part(str(path), size_bytes(path), partial(remove, home, path))


def _delete_trials(home: Home, storage: optuna.storages.RDBStorage, study_id: int) -> None:
    """Deletes a study from Optuna's store, with its bookings, and the leases that workers may have left."""
    try:
        Ledger(storage.engine).drop(storage.get_study_name_from_id(study_id))
        leases = Leases(storage.engine, duration_s=1)
        for trial in storage.get_all_trials(study_id, deepcopy=False):
            leases.forget(trial._trial_id)
        leases.forget(-study_id)  # who asks
        for key in (IN_TURN, LEADING):
            leases.forget(key - study_id)
        storage.delete_study(study_id)
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StoreError(f"{home.optuna_place} must be a store that can be written, but: {error}") from error


def _refuse_what_is_not_ours(paths: StudyPaths, artifacts: Path) -> None:
    """A study goes everywhere or nowhere, so what would stay is refused before anything goes."""
    home = paths.home
    for path in (paths.root, paths.trials, artifacts):
        if (link := link_in(home, path)) is not None:
            raise StoreError(
                f"only what lies in the store itself is deleted, but {link} is a link to {os.readlink(link)}; "
                "nothing was deleted. Put a folder in its place first"
            )
    foreign = [path for path in children(paths.root) if not _is_ours(path, paths)]
    foreign += [path for path in children(paths.trials) if not (re.fullmatch(r"\d{4,}", path.name) and path.is_dir())]
    foreign += [path for path in children(artifacts) if not (RUN_ID.fullmatch(path.name) or is_aside(path))]
    if foreign:
        raise StoreError(
            f"a study is deleted with its folders, but {', '.join(map(str, foreign[:5]))}"
            f"{', …' if len(foreign) > 5 else ''} there {'is' if len(foreign) == 1 else 'are'} not sweeper's; nothing "
            "was deleted. Move it elsewhere first"
        )
    for file in (home.optuna_file, home.mlflow_file, paths.root, home.studies):
        if file.exists() and not os.access(file, os.W_OK):
            raise StoreError(
                f"a study is deleted everywhere or nowhere, but {file} cannot be written; nothing was deleted"
            )


def _is_ours(path: Path, paths: StudyPaths) -> bool:
    return path.name in paths.known or HALF_WRITTEN.fullmatch(path.name) is not None
