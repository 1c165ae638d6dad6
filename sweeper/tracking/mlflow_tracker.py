"""MLflow as the store of a study's runs: SQLite and a folder of artifacts, both under SWEEPER_HOME.

Artifacts get `mlflow-artifacts:` addresses, which the server that `sweeper ui` starts resolves
against the folder that it is given. So no absolute path is in the database, and a store that is
moved opens whole. The files themselves are written by MLflow's own local repository, to where that
server looks.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag, SourceType, ViewType
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

from sweeper.paths import Home
from sweeper.redaction import redacted
from sweeper.tracking.mlflow_database import refuse_other_tables
from sweeper.tracking.mlflow_inputs import as_input
from sweeper.tracking.mlflow_system import SystemMetrics
from sweeper.tracking.tracker import NOTE_TAG, STUDY, DatasetUse, RunKey, RunState, Tracker, Watcher
from sweeper.tracking.view import EXPERIMENT_KIND, MODEL_TRAINING, VIEW_TAG, RunsView
from sweeper.tracking.writer import Point, Writer
from sweeper.trial import RunKind

ARTIFACT_ROOT = "mlflow-artifacts:"
KIND_TAG, NUMBER_TAG = "sweeper.kind", "sweeper.trial"
SIDE_TAG = "sweeper.side_run"  # the number of a run that is no trial
STUDY_TAG, STUDY_ID_TAG = "sweeper.study", "sweeper.study_id"
_UNAVAILABLE: str = ErrorCode.Name(TEMPORARILY_UNAVAILABLE)
_MISSING: str = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
logger = logging.getLogger(__name__)
for _noisy in ("alembic", "mlflow"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


class MlflowTracker(Tracker):
    """The runs of one study in the MLflow store of `home`; the experiment has the study's name.

    All is written by one thread, in order; only artifacts, which may be gone a moment later, are waited for.

    Args:
        study_id: what tells the study from another one of its name; a tag of each run.
        patience_s: how long a store that cannot be written is tried again.
        watcher: who is told of that, and may end it.

    Raises:
        TrackingError: as every method, where what was given before could not be written.
    """

    def __init__(
        self,
        home: Home,
        study: str,
        study_id: str | None = None,
        patience_s: float = 0.0,
        watcher: Watcher | None = None,
    ) -> None:
        self._home = home
        self._study = study
        self._study_id = study_id
        self._writer = Writer(self._write, self._is_passing, self._in_words, self._calling, patience_s)
        if watcher is not None:
            self._writer.announce, self._writer.is_stopping = watcher
        self._client: MlflowClient
        self._experiment: str
        self._runs: dict[RunKey, str] = {}  # those that the store has; changed by the writer's thread alone
        self._client, self._experiment = self._writer.ask(lambda _: self._open())
        self._runs = {key: run_id for key, (run_id, _) in self._writer.ask(lambda _: self._stored()).items()}
        self._known = set(self._runs)  # and those that were given to the writer

    @property
    def place(self) -> str:
        return "store"

    def start(self, key: RunKey, name: str, params: dict[str, object], tags: dict[str, str]) -> None:
        self._known.add(key)
        self._writer.then(lambda is_again: self._start(key, name, params, dict(tags), is_again))

    def _start(self, key: RunKey, name: str, params: dict[str, object], tags: dict[str, str], is_again: bool) -> None:
        if is_again and key not in self._runs:  # it may have been made, and only the answer was lost
            self._runs.update({found: run_id for found, (run_id, _) in self._stored().items()})
        if key in self._runs:
            self._with_run(key, lambda run_id: self._start_again(run_id, params, tags))
            return
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
        if key != STUDY and STUDY in self._runs:
            own["mlflow.parentRunId"] = self._runs[STUDY]
        tags = {**own, **{name: shown(value, MAX_TAG_VAL_LENGTH) for name, value in tags.items()}}
        run_id = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        self._runs[key] = run_id
        self._log_params(run_id, params)

    def _start_again(self, run_id: str, params: dict[str, object], tags: dict[str, str]) -> None:
        self._client.update_run(run_id, status=RunState.RUNNING.value)
        self._tag(run_id, tags)
        self._log_params(run_id, params)  # again, for who made the run may not have come so far

    def _log_params(self, run_id: str, params: dict[str, object]) -> None:
        own_params = [Param(name, shown(value, MAX_PARAM_VAL_LENGTH)) for name, value in params.items()]
        for start in range(0, len(own_params), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, params=own_params[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def log(self, key: RunKey, metrics: dict[str, float], step: int) -> None:
        if self._is_there(key):
            now_ms = int(time.time() * 1000)
            self._writer.add(key, [Point(name, value, now_ms, step) for name, value in metrics.items()])

    def log_datasets(self, key: RunKey, datasets: Sequence[DatasetUse]) -> None:
        if self._is_there(key):
            inputs = [as_input(dataset) for dataset in datasets]
            self._writer.then(
                lambda _: self._with_run(key, lambda run_id: self._client.log_inputs(run_id, datasets=inputs))
            )

    def log_file(self, key: RunKey, file: Path, folder: str | None = None, *, stays: bool = False) -> None:
        file.stat()  # what is not here is no failure of the store
        if self._is_there(key):
            give = self._writer.then if stays else self._writer.ask
            give(lambda _: self._with_run(key, lambda _: self._copy(key, file, folder)))

    def _copy(self, key: RunKey, file: Path, folder: str | None) -> None:
        if file.is_dir():
            self._repository(key).log_artifacts(str(file), folder)
            return
        with _without_secrets(file) as safe:
            self._repository(key).log_artifact(str(safe), folder)

    def drop_files(self, key: RunKey, folder: str) -> None:
        if key in self._known:  # the run may have been deleted in MLflow
            self._writer.ask(lambda _: self._with_run(key, lambda _: self._drop(key, folder)))

    def _drop(self, key: RunKey, folder: str) -> None:
        if (self._folder(key) / folder).is_dir():
            self._repository(key).delete_artifacts(folder)

    def end(self, key: RunKey, state: RunState, tags: dict[str, str]) -> None:
        if not self._is_there(key):
            return

        def end(run_id: str) -> None:
            self._tag(run_id, tags)
            if state is RunState.SCHEDULED:  # not an end: MLflow must not note an end time
                self._client.update_run(run_id, status=state.value)
            else:
                self._client.set_terminated(run_id, status=state.value)

        self._writer.then(lambda _: self._with_run(key, end))

    def arrange(self, view: RunsView) -> None:
        if self._has_own_experiment:  # another one is shown as others want it
            self._writer.then(lambda _: self._arrange(view))

    def _arrange(self, view: RunsView) -> None:
        """Tags the experiment with what MLflow's pages show of it."""
        here = self._client.get_experiment(self._experiment).tags
        for name, value in {EXPERIMENT_KIND: MODEL_TRAINING, VIEW_TAG: view.as_json()}.items():
            if here.get(name) != value:
                self._client.set_experiment_tag(self._experiment, name, value)

    def describe(self, text: str) -> None:
        if self._is_there(STUDY):
            self._writer.then(lambda _: self._with_run(STUDY, lambda run_id: self._describe(run_id, text)))

    def _describe(self, run_id: str, text: str) -> None:
        self._tag(run_id, {NOTE_TAG: text})
        if self._has_own_experiment:
            self._client.set_experiment_tag(self._experiment, NOTE_TAG, shown(text, MAX_EXPERIMENT_TAG_VAL_LENGTH))

    @property
    def _has_own_experiment(self) -> bool:
        """Whether no other study, and nobody else, has runs in it."""
        return True

    def _is_there(self, key: RunKey) -> bool:
        """Whether there is a run to write to: a person may have deleted it, and the study goes on without."""
        if key not in self._known:
            logger.warning(
                "MLflow has no run of %s %s any more, and nothing more of it is logged", key.kind, key.number
            )
        return key in self._known

    def flush(self) -> None:
        self._writer.flush()

    def settle(self) -> bool:
        return self._writer.settle()

    def steps(self, key: RunKey, metric: str) -> set[int]:
        def read(_: bool) -> set[int]:
            points: list[Metric] = []
            self._with_run(key, lambda run_id: points.extend(self._client.get_metric_history(run_id, metric)))
            return {point.step for point in points}

        return self._writer.ask(read)

    def states(self) -> dict[RunKey, RunState]:
        stored = self._writer.ask(lambda _: self._stored())
        return {key: RunState(status) for key, (_, status) in stored.items()}

    @contextmanager
    def watching_system(self) -> Iterator[None]:
        run_id = self._writer.ask(lambda _: self._runs.get(STUDY))
        if run_id is None:  # a person has deleted it
            yield
            return
        with SystemMetrics(self, run_id, self._client.tracking_uri).watching():
            yield

    def _open(self) -> tuple[MlflowClient, str]:
        """The client, and the id of the experiment, which is made where there is none."""
        refuse_other_tables(self._home)
        client = MlflowClient(tracking_uri=self._home.mlflow_url)
        experiment = client.get_experiment_by_name(self._study)
        if experiment is not None:
            return client, experiment.experiment_id
        return client, client.create_experiment(self._study, artifact_location=f"{ARTIFACT_ROOT}/{self._study}")

    def _tag(self, run_id: str, tags: dict[str, str]) -> None:
        own = [RunTag(name, shown(value, MAX_TAG_VAL_LENGTH)) for name, value in tags.items()]
        for start in range(0, len(own), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, tags=own[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def _write(self, key: RunKey, points: list[Point]) -> None:
        def write(run_id: str) -> None:
            for start in range(0, len(points), MAX_METRICS_PER_BATCH):
                part = points[start : start + MAX_METRICS_PER_BATCH]
                metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in part]
                self._client.log_batch(run_id, metrics=metrics)

        self._with_run(key, write)

    def _with_run(self, key: RunKey, do: Callable[[str], None]) -> None:
        """Does something with a run, if there still is one: a person may delete it at any moment."""
        if key not in self._runs:
            return
        try:
            do(self._runs[key])
        except MlflowException as error:
            if self._is_passing(error) or self._has_active(key):
                raise
            del self._runs[key]
            self._known.discard(key)
            self._is_there(key)

    def _has_active(self, key: RunKey) -> bool:
        """Whether a run is there and not in MLflow's bin, as far as the store answers."""
        try:
            stage = self._client.get_run(self._runs[key]).info.lifecycle_stage
        except MlflowException as error:
            return bool(error.error_code != _MISSING)
        return bool(stage == LifecycleStage.ACTIVE)

    def _calling(self) -> AbstractContextManager[None]:
        """Around each call of the store."""
        return nullcontext()

    def _is_passing(self, error: Exception) -> bool:
        """Whether another process holds the database, or its disk is full for now."""
        return isinstance(error, MlflowException) and error.error_code == _UNAVAILABLE

    def _in_words(self, error: Exception) -> str:
        return f"runs are recorded in {self._home.mlflow_file}, but that failed: {' '.join(str(error).split())}"

    def _stored(self) -> dict[RunKey, tuple[str, str]]:
        """Every run of the study: its id and its state."""
        stored: dict[RunKey, tuple[str, str]] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                filter_string=self._filter,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            for run in page:
                tags = run.data.tags
                if KIND_TAG in tags:
                    kind = RunKind(tags[KIND_TAG])
                    number = int(tags[tag]) if (tag := _number_tag(kind)) in tags else None
                    stored[RunKey(kind, number)] = (run.info.run_id, run.info.status)
            token = page.token
            if not token:
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


def shown(value: object, length: int) -> str:
    """A value as it goes to MLflow: without secrets, and cut, visibly, where it is longer than MLflow takes."""
    text = redacted(str(value))
    return text if len(text) <= length else f"{text[: length - 1]}…"


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
