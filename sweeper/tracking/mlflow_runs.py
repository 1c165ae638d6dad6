"""The runs of a study in MLflow, as the thread that writes them has them: SQLite and a folder under SWEEPER_HOME.

Artifacts get `mlflow-artifacts:` addresses, which the server that `sweeper ui` starts resolves
against the folder that it is given. So no absolute path is in the database, and a store that is
moved opens whole. The files themselves are written by MLflow's own local repository, to where that
server looks.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag, SourceType, ViewType
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.validation import (
    MAX_EXPERIMENT_TAG_VAL_LENGTH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
    MAX_TAG_VAL_LENGTH,
)
from sqlalchemy.exc import OperationalError

from sweeper.disk import is_full
from sweeper.errors import SweeperError
from sweeper.paths import Home
from sweeper.redaction import redacted
from sweeper.tracking.mlflow_database import refuse_other_tables
from sweeper.tracking.mlflow_inputs import as_input
from sweeper.tracking.operation import Kind, Operation, Point, as_dataset
from sweeper.tracking.spool import Waiting
from sweeper.tracking.tracker import NOTE_TAG, STUDY, RunKey, RunState
from sweeper.tracking.view import EXPERIMENT_KIND, MODEL_TRAINING, VIEW_TAG
from sweeper.tracking.writer import Store
from sweeper.trial import RunKind

ARTIFACT_ROOT = "mlflow-artifacts:"
KIND_TAG, NUMBER_TAG = "sweeper.kind", "sweeper.trial"
SIDE_TAG = "sweeper.side_run"  # the number of a run that is no trial
STUDY_TAG, STUDY_ID_TAG = "sweeper.study", "sweeper.study_id"
_UNAVAILABLE: str = ErrorCode.Name(TEMPORARILY_UNAVAILABLE)
_MISSING: str = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
CHAMPION = "champion"  # the alias of a registered model, and the folder of the model on its run
MODEL_KIND = "champion"
logger = logging.getLogger(__name__)
for _noisy in ("alembic", "mlflow"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


class MlflowRuns(Store):
    """The runs of one study; all of it happens on the writer's thread."""

    def __init__(self, home: Home, study: str, study_id: str | None, waiting: Waiting) -> None:
        self._home = home
        self._study = study
        self._study_id = study_id
        self._waiting = waiting  # where operations have copies of files
        self._client: MlflowClient
        self._experiment: str
        self._runs: dict[RunKey, str] = {}  # those that the store has, as far as they were looked for
        self._lost: set[RunKey] = set()  # those that it was found not to have
        self._is_connected = False
        self._does: dict[Kind, Callable[[RunKey, dict[str, Any]], None]] = {
            Kind.POINTS: lambda key, fields: self._write(key, [Point(*point) for point in fields["points"]]),
            Kind.MISSING: lambda key, fields: self._write_missing(key, **fields),
            Kind.DATASETS: lambda key, fields: self._log_inputs(key, fields["datasets"]),
            Kind.FILE: lambda key, fields: self._copy_artifact(key, **fields),
            Kind.DROP: lambda key, fields: self._with_run(key, lambda _: self._drop(key, fields["folder"])),
            Kind.END: lambda key, fields: self._with_run(key, lambda run_id: self._end(run_id, **fields)),
            Kind.DESCRIBE: lambda key, fields: self._with_run(key, lambda run_id: self._describe(run_id, **fields)),
        }

    def do(self, operation: Operation) -> None:
        self._connect()
        key, fields = operation.key, operation.fields
        if key is None:
            self._arrange(fields["view"])
        elif operation.kind is Kind.START:
            self._start(key, **fields)
        else:
            self._does[operation.kind](key, fields)

    def _connect(self) -> None:
        """Finds the experiment and the runs that it has, once the store answers."""
        if not self._is_connected:
            self._client, self._experiment = self._open()
            self._runs = {key: run_id for key, (run_id, _) in self._stored().items()}
            self._is_connected = True

    def _open(self) -> tuple[MlflowClient, str]:
        """The client, and the id of the experiment, which is made where there is none."""
        with FileLock(self._home.opening_lock):
            refuse_other_tables(self._home)
            client = MlflowClient(tracking_uri=self._home.mlflow_url)
            experiment = client.get_experiment_by_name(self._study)
            if experiment is not None:
                return client, experiment.experiment_id
            return client, client.create_experiment(self._study, artifact_location=f"{ARTIFACT_ROOT}/{self._study}")

    def _start(self, key: RunKey, name: str, params: dict[str, str], tags: dict[str, str]) -> None:
        if self._find(key):  # made before, perhaps by another worker, or only the answer was lost
            if key != STUDY and self._find(STUDY):  # or whoever made it was there before the study's run
                tags = {"mlflow.parentRunId": self._runs[STUDY], **tags}
            self._with_run(key, lambda run_id: self._start_again(run_id, params, tags))
            return
        self._lost.discard(key)
        own = {
            KIND_TAG: key.kind.value,
            STUDY_TAG: self._study,
            "mlflow.runName": name,
            "mlflow.source.name": "sweeper",
            "mlflow.source.type": SourceType.to_string(SourceType.LOCAL),
        }
        if self._study_id is not None:
            own[STUDY_ID_TAG] = self._study_id
        if key.number is not None:
            own[_number_tag(key.kind)] = str(key.number)
        if key != STUDY and self._find(STUDY):
            own["mlflow.parentRunId"] = self._runs[STUDY]
        run_id = self._client.create_run(self._experiment, run_name=name, tags={**own, **tags}).info.run_id
        self._runs[key] = run_id
        self._log_params(run_id, params)

    def _start_again(self, run_id: str, params: dict[str, str], tags: dict[str, str]) -> None:
        self._client.update_run(run_id, status=RunState.RUNNING.value)
        self._tag(run_id, tags)
        self._log_params(run_id, params)  # again, for who made the run may not have come so far

    def _log_params(self, run_id: str, params: dict[str, str]) -> None:
        own_params = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(own_params), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, params=own_params[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def _tag(self, run_id: str, tags: dict[str, str]) -> None:
        own = [RunTag(name, value) for name, value in tags.items()]
        for start in range(0, len(own), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, tags=own[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def _write(self, key: RunKey, points: list[Point]) -> None:
        def write(run_id: str) -> None:
            for start in range(0, len(points), MAX_METRICS_PER_BATCH):
                part = points[start : start + MAX_METRICS_PER_BATCH]
                metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in part]
                self._client.log_batch(run_id, metrics=metrics)

        self._with_run(key, write)

    def _write_missing(self, key: RunKey, metric: str, points: list[list[Any]]) -> None:
        there = self._steps(key, metric)
        self._write(key, [point for point in (Point(*values) for values in points) if point.step not in there])

    def _steps(self, key: RunKey, metric: str) -> set[int]:
        history: list[Metric] = []
        self._with_run(key, lambda run_id: history.extend(self._client.get_metric_history(run_id, metric)))
        return {point.step for point in history}

    def _log_inputs(self, key: RunKey, datasets: list[dict[str, Any]]) -> None:
        inputs = [as_input(as_dataset(dataset)) for dataset in datasets]
        self._with_run(key, lambda run_id: self._client.log_inputs(run_id, datasets=inputs))

    def _copy_artifact(self, key: RunKey, path: str, folder: str | None, is_copy: bool) -> None:
        file = self._waiting.copied(path) if is_copy else self._study_folder / path
        if file.exists():  # or it has been sent, or dropped, while the store was away
            self._with_run(key, lambda _: self._copy(key, file, folder))
        if is_copy:
            shutil.rmtree(file.parent, ignore_errors=True)

    @property
    def _study_folder(self) -> Path:
        return self._home.studies / self._study

    def _copy(self, key: RunKey, file: Path, folder: str | None) -> None:
        try:
            if file.is_dir():
                self._repository(key).log_artifacts(str(file), folder)
                return
            with _without_secrets(file) as safe:
                self._repository(key).log_artifact(str(safe), folder)
        except FileNotFoundError:
            if file.exists():
                raise  # or it was dropped meanwhile

    def _drop(self, key: RunKey, folder: str) -> None:
        if (self._folder(key) / folder).is_dir():
            self._repository(key).delete_artifacts(folder)

    def _register(self, key: RunKey, folder: Path, name: str, tags: dict[str, str], description: str) -> str:
        self._connect()
        run_id, place = self._runs[key], f"{CHAMPION}/{folder.name}"
        own = {KIND_TAG: MODEL_KIND, STUDY_TAG: self._study, STUDY_ID_TAG: self._study_id or ""}
        known = self._model(name)
        if known is None:
            self._client.create_registered_model(name, tags=own)
        elif version := known.aliases.get(CHAMPION):
            champion = self._client.get_model_version(name, version)
            if champion.run_id == run_id and champion.source.endswith(f"/{place}"):
                return str(version)
        self._drop(key, place)  # what was interrupted
        self._copy(key, folder, place)
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{place}"
        made = self._client.create_model_version(name, source, run_id, tags={**own, **tags}, description=description)
        self._client.set_registered_model_alias(name, CHAMPION, made.version)
        return str(made.version)

    def _is_foreign(self, name: str) -> bool:
        self._connect()
        known = self._model(name)
        return known is not None and known.tags.get(STUDY_ID_TAG) != (self._study_id or "")

    def _model(self, name: str) -> RegisteredModel | None:
        """A registered model with its aliases; None where there is none of that name."""
        if not self._client.search_registered_models(filter_string=f"name = '{name}'"):
            return None
        return self._client.get_registered_model(name)

    def _end(self, run_id: str, state: str, tags: dict[str, str]) -> None:
        self._tag(run_id, tags)
        if state == RunState.SCHEDULED.value:  # not an end: MLflow must not note an end time
            self._client.update_run(run_id, status=state)
        else:
            self._client.set_terminated(run_id, status=state)

    def _arrange(self, view: str) -> None:
        """Tags the experiment with what MLflow's pages show of it."""
        here = self._client.get_experiment(self._experiment).tags
        for name, value in {EXPERIMENT_KIND: MODEL_TRAINING, VIEW_TAG: view}.items():
            if here.get(name) != value:
                self._client.set_experiment_tag(self._experiment, name, value)

    def _describe(self, run_id: str, text: str) -> None:
        self._tag(run_id, {NOTE_TAG: shown(text, MAX_TAG_VAL_LENGTH)})
        if self._has_own_experiment:
            self._client.set_experiment_tag(self._experiment, NOTE_TAG, shown(text, MAX_EXPERIMENT_TAG_VAL_LENGTH))

    @property
    def _has_own_experiment(self) -> bool:
        """Whether no other study, and nobody else, has runs in it."""
        return True

    def _with_run(self, key: RunKey, do: Callable[[str], None]) -> None:
        """Does something with a run, if there still is one: a person may delete it at any moment."""
        if key in self._lost:
            return
        if not self._find(key):
            self._lose(key)
            return
        try:
            do(self._runs[key])
        except MlflowException as error:
            if self.is_passing(error) or self._has_active(key):
                raise
            del self._runs[key]
            self._lose(key)

    def _find(self, key: RunKey) -> bool:
        """Whether the store has a run; another worker may have made it."""
        if key not in self._runs:
            self._runs.update({found: run_id for found, (run_id, _) in self._stored(key).items()})
        return key in self._runs

    def _lose(self, key: RunKey) -> None:
        """Says that a run is not there any more."""
        self._lost.add(key)
        logger.warning("MLflow has no run of %s %s any more, and nothing more of it is logged", key.kind, key.number)

    def _has_active(self, key: RunKey) -> bool:
        """Whether a run is there and not in MLflow's bin, as far as the store answers."""
        try:
            stage = self._client.get_run(self._runs[key]).info.lifecycle_stage
        except MlflowException as error:
            return bool(error.error_code != _MISSING)
        return bool(stage == LifecycleStage.ACTIVE)

    def is_passing(self, error: Exception) -> bool:
        """Whether another process holds the database, or its disk is full for now."""
        is_held = isinstance(error, MlflowException) and error.error_code == _UNAVAILABLE
        return is_held or isinstance(error, OperationalError) or is_full(error)

    def bars(self, error: Exception) -> bool:
        return isinstance(error, SweeperError | OSError)

    def in_words(self, error: Exception) -> str:
        return f"runs are recorded in {self._home.mlflow_file}, but that failed: {' '.join(str(error).split())}"

    def _stored(self, only: RunKey | None = None) -> dict[RunKey, tuple[str, str]]:
        """Every run of the study, or only one: its id and its state."""
        parts = [self._filter] if self._filter else []
        if only is not None:
            parts.append(f"tags.`{KIND_TAG}` = '{only.kind.value}'")
        if only is not None and only.number is not None:
            parts.append(f"tags.`{_number_tag(only.kind)}` = '{only.number}'")
        stored: dict[RunKey, tuple[str, str]] = {}
        words = " and ".join(parts)
        for run in pages(self._client.search_runs, [self._experiment], words, ViewType.ACTIVE_ONLY):
            tags = run.data.tags
            if KIND_TAG in tags:
                kind = RunKind(tags[KIND_TAG])
                number = int(tags[tag]) if (tag := _number_tag(kind)) in tags else None
                stored[RunKey(kind, number)] = (run.info.run_id, run.info.status)
        return stored

    @property
    def _filter(self) -> str:
        """Which runs of the experiment are the study's; in the store all of sweeper's are."""
        return ""

    def _folder(self, key: RunKey) -> Path:
        """Where a server with `--artifacts-destination` at the store's folder looks for the run's files."""
        return self._home.artifacts / self._study / self._runs[key] / "artifacts"

    def _repository(self, key: RunKey) -> ArtifactRepository:
        return LocalArtifactRepository(self._folder(key).as_uri())


def _number_tag(kind: RunKind) -> str:
    return NUMBER_TAG if kind is RunKind.TRIAL else SIDE_TAG


def shown(value: object, length: int = MAX_TAG_VAL_LENGTH) -> str:
    """A value as it goes to MLflow: without secrets, and cut, visibly, where it is longer than MLflow takes."""
    text = redacted(str(value))
    return text if len(text) <= length else f"{text[: length - 1]}…"


def shown_param(value: object) -> str:
    return shown(value, MAX_PARAM_VAL_LENGTH)


@contextmanager
def _without_secrets(file: Path) -> Iterator[Path]:
    """The file, or where a text has a secret in it a copy without."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    if (safe := redacted(text)) == text:
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        copy.write_text(safe, encoding="utf-8")
        yield copy


def pages(search: Callable[..., Any], *wanted: Any, **more: Any) -> Iterator[Any]:
    """All that a search of MLflow's client finds, page by page."""
    token: str | None = None
    while True:
        page = search(*wanted, **more, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
