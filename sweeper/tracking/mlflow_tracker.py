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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
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
from sweeper.tracking.tracker import NOTE_TAG, STUDY, RunKey, RunState, Tracker
from sweeper.trial import RunKind

ARTIFACT_ROOT = "mlflow-artifacts:"
KIND_TAG, NUMBER_TAG = "sweeper.kind", "sweeper.trial"
SIDE_TAG = "sweeper.side_run"  # the number of a run that is no trial
STUDY_TAG, STUDY_ID_TAG = "sweeper.study", "sweeper.study_id"
logger = logging.getLogger(__name__)
for _noisy in ("alembic", "mlflow"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


class MlflowTracker(Tracker):
    """The runs of one study in the MLflow store of `home`; the experiment has the study's name.

    Args:
        study_id: what tells the study from another one of its name; a tag of each run.
    """

    def __init__(self, home: Home, study: str, study_id: str | None = None) -> None:
        self._home = home
        self._study = study
        self._study_id = study_id
        self._waiting: dict[RunKey, list[Metric]] = {}
        self._client, self._experiment = self._open()
        self._runs = {key: run_id for key, (run_id, _) in self._stored().items()}

    @property
    def place(self) -> str:
        return "store"

    def start(self, key: RunKey, name: str, params: dict[str, object], tags: dict[str, str]) -> None:
        if key in self._runs:
            run_id = self._runs[key]
            self._client.update_run(run_id, status=RunState.RUNNING.value)
            self._tag(run_id, tags)
            self._log_params(run_id, params)  # again, for who made the run may not have come so far
            return
        own = {
            KIND_TAG: key.kind.value,
            STUDY_TAG: self._study,
            "mlflow.runName": name,
            "mlflow.source.name": "sweeper",
        }
        if self._study_id is not None:
            own[STUDY_ID_TAG] = self._study_id
        if key.number is not None:
            own[_number_tag(key.kind)] = str(key.number)
        if key != STUDY:
            own["mlflow.parentRunId"] = self._runs[STUDY]
        tags = {**own, **{name: shown(value, MAX_TAG_VAL_LENGTH) for name, value in tags.items()}}
        run_id = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        self._runs[key] = run_id
        self._log_params(run_id, params)

    def _log_params(self, run_id: str, params: dict[str, object]) -> None:
        own_params = [Param(name, shown(value, MAX_PARAM_VAL_LENGTH)) for name, value in params.items()]
        for start in range(0, len(own_params), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, params=own_params[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def log(self, key: RunKey, metrics: dict[str, float], step: int) -> None:
        if not self._is_there(key):
            return
        now_ms = int(time.time() * 1000)
        points = [Metric(name, value, now_ms, step) for name, value in metrics.items()]
        self._waiting.setdefault(key, []).extend(points)

    def log_file(self, key: RunKey, file: Path, folder: str | None = None) -> None:
        if not self._is_there(key):
            return
        if file.is_dir():
            self._repository(key).log_artifacts(str(file), folder)
            return
        with _without_secrets(file) as safe:
            self._repository(key).log_artifact(str(safe), folder)

    def drop_files(self, key: RunKey, folder: str) -> None:
        if key in self._runs and (self._folder(key) / folder).is_dir():  # the run may have been deleted in MLflow
            self._repository(key).delete_artifacts(folder)

    def end(self, key: RunKey, state: RunState, tags: dict[str, str]) -> None:
        if not self._is_there(key):
            return
        self._write(key)
        run_id = self._runs[key]
        self._tag(run_id, tags)
        if state is RunState.SCHEDULED:  # not an end: MLflow must not note an end time
            self._client.update_run(run_id, status=state.value)
        else:
            self._client.set_terminated(run_id, status=state.value)

    def describe(self, text: str) -> None:
        if STUDY not in self._runs:
            return
        self._tag(self._runs[STUDY], {NOTE_TAG: text})
        if self._has_own_experiment:
            self._client.set_experiment_tag(self._experiment, NOTE_TAG, shown(text, MAX_EXPERIMENT_TAG_VAL_LENGTH))

    @property
    def _has_own_experiment(self) -> bool:
        """Whether no other study, and nobody else, has runs in it."""
        return True

    def _is_there(self, key: RunKey) -> bool:
        """Whether there is a run to write to: a person may have deleted it, and the study goes on without."""
        if key not in self._runs:
            logger.warning(
                "MLflow has no run of %s %s any more, and nothing more of it is logged", key.kind, key.number
            )
        return key in self._runs

    def flush(self) -> None:
        for key in list(self._waiting):
            self._write(key)

    def states(self) -> dict[RunKey, RunState]:
        return {key: RunState(status) for key, (_, status) in self._stored().items()}

    def _open(self) -> tuple[MlflowClient, str]:
        """The client, and the id of the experiment, which is made where there is none."""
        client = MlflowClient(tracking_uri=self._home.mlflow_url)
        experiment = client.get_experiment_by_name(self._study)
        if experiment is not None:
            return client, experiment.experiment_id
        return client, client.create_experiment(self._study, artifact_location=f"{ARTIFACT_ROOT}/{self._study}")

    def _tag(self, run_id: str, tags: dict[str, str]) -> None:
        own = [RunTag(name, shown(value, MAX_TAG_VAL_LENGTH)) for name, value in tags.items()]
        for start in range(0, len(own), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, tags=own[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def _write(self, key: RunKey) -> None:
        points = self._waiting.get(key, [])
        for start in range(0, len(points), MAX_METRICS_PER_BATCH):
            self._client.log_batch(self._runs[key], metrics=points[start : start + MAX_METRICS_PER_BATCH])
        self._waiting.pop(key, None)  # what could not be written is not lost

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
