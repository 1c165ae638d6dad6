"""MLflow as the store of a study's runs: SQLite and a folder of artifacts, both under SWEEPER_HOME.

Artifacts get `mlflow-artifacts:` addresses, which the server that `sweeper ui` starts resolves
against the folder that it is given. So no absolute path is in the database, and a store that is
moved opens whole. The files themselves are written by MLflow's own local repository, to where that
server looks.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from sweeper.paths import Home
from sweeper.redaction import redacted, redacted_values
from sweeper.tracking.tracker import STUDY, RunKey, RunState, Tracker
from sweeper.trial import RunKind

ARTIFACT_ROOT = "mlflow-artifacts:"
KIND_TAG, NUMBER_TAG = "sweeper.kind", "sweeper.trial"
_BATCH = 1000  # metrics that MLflow takes in one call
for _noisy in ("alembic", "mlflow"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


class MlflowTracker(Tracker):
    """The runs of one study in the MLflow store of `home`; the experiment has the study's name."""

    def __init__(self, home: Home, study: str) -> None:
        self._home = home
        self._client = MlflowClient(tracking_uri=home.mlflow_url)
        experiment = self._client.get_experiment_by_name(study)
        if experiment is None:
            self._experiment = self._client.create_experiment(study, artifact_location=f"{ARTIFACT_ROOT}/{study}")
        else:
            self._experiment = experiment.experiment_id
        self._study = study
        self._runs = {key: run_id for key, (run_id, _) in self._stored().items()}
        self._waiting: dict[RunKey, list[Metric]] = {}

    def start(self, key: RunKey, name: str, params: dict[str, object], tags: dict[str, str]) -> None:
        if key in self._runs:
            run_id = self._runs[key]
            self._client.update_run(run_id, status=RunState.RUNNING.value)
            self._client.log_batch(run_id, tags=_tags(tags))
            return
        own = {KIND_TAG: key.kind.value, "mlflow.runName": name, "mlflow.source.name": "sweeper"}
        if key.number is not None:
            own[NUMBER_TAG] = str(key.number)
        if key != STUDY:
            own["mlflow.parentRunId"] = self._runs[STUDY]
        run = self._client.create_run(self._experiment, run_name=name, tags={**own, **redacted_values(tags)})
        self._runs[key] = run.info.run_id
        self._client.log_batch(run.info.run_id, params=[Param(k, redacted(str(v))) for k, v in params.items()])

    def log(self, key: RunKey, metrics: dict[str, float], step: int) -> None:
        now_ms = int(time.time() * 1000)
        points = [Metric(name, value, now_ms, step) for name, value in metrics.items()]
        self._waiting.setdefault(key, []).extend(points)

    def log_file(self, key: RunKey, file: Path, folder: str | None = None) -> None:
        repository = self._repository(key)
        if file.is_dir():
            repository.log_artifacts(str(file), folder)
        else:
            repository.log_artifact(str(file), folder)

    def drop_files(self, key: RunKey, folder: str) -> None:
        if key in self._runs and (self._folder(key) / folder).is_dir():  # the run may have been deleted in MLflow
            self._repository(key).delete_artifacts(folder)

    def end(self, key: RunKey, state: RunState, tags: dict[str, str]) -> None:
        self._write(key)
        run_id = self._runs[key]
        self._client.log_batch(run_id, tags=_tags(tags))
        if state is RunState.SCHEDULED:  # not an end: MLflow must not note an end time
            self._client.update_run(run_id, status=state.value)
        else:
            self._client.set_terminated(run_id, status=state.value)

    def flush(self) -> None:
        for key in list(self._waiting):
            self._write(key)

    def states(self) -> dict[RunKey, RunState]:
        return {key: RunState(status) for key, (_, status) in self._stored().items()}

    def _write(self, key: RunKey) -> None:
        points = self._waiting.pop(key, [])
        for start in range(0, len(points), _BATCH):
            self._client.log_batch(self._runs[key], metrics=points[start : start + _BATCH])

    def _stored(self) -> dict[RunKey, tuple[str, str]]:
        """Every run of the study: its id and its state."""
        stored: dict[RunKey, tuple[str, str]] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            for run in page:
                tags = run.data.tags
                if KIND_TAG in tags:
                    number = int(tags[NUMBER_TAG]) if NUMBER_TAG in tags else None
                    stored[RunKey(RunKind(tags[KIND_TAG]), number)] = (run.info.run_id, run.info.status)
            token = page.token
            if not token:
                return stored

    def _folder(self, key: RunKey) -> Path:
        """Where a server with `--artifacts-destination` at the store's folder looks for the run's files."""
        return self._home.artifacts / self._study / self._runs[key] / "artifacts"

    def _repository(self, key: RunKey) -> LocalArtifactRepository:
        return LocalArtifactRepository(self._folder(key).as_uri())


def _tags(tags: dict[str, str]) -> list[RunTag]:
    return [RunTag(name, redacted(value)) for name, value in tags.items()]
