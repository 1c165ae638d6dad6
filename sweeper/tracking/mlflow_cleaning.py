"""What MLflow's store has, deleted things included, and how they go for good.

MLflow only marks what a person deletes; rows and files stay, and so does the experiment's name. `mlflow gc`
deletes such things through the same methods of the store, but needs a server to find our artifacts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.tracking.mlflow_database import refuse_other_tables
from sweeper.tracking.mlflow_runs import ARTIFACT_ROOT, KIND_TAG, MODEL_KIND, NUMBER_TAG, pages
from sweeper.tracking.mlflow_server import impatient, reached, study_runs
from sweeper.tracking.place import Place
from sweeper.trial import RunKind

RUN_ID = re.compile(r"[0-9a-f]{32}")  # a run's folder among the artifacts


@dataclass(frozen=True)
class Run:
    """One run of an experiment."""

    run_id: str
    trial: int | None  # of the run of a trial
    is_deleted: bool  # in MLflow's bin
    is_ours: bool


@dataclass(frozen=True)
class Experiment:
    """One experiment, and its runs."""

    experiment_id: str
    name: str
    is_deleted: bool
    runs: tuple[Run, ...]

    @property
    def is_ours(self) -> bool:
        """Whether nothing is in it that a person or another program wrote."""
        return all(run.is_ours for run in self.runs)


class ServerRuns:
    """The runs of one study in an experiment of a tracking server, found by the study's id alone.

    Attributes:
        ids: those that are not in MLflow's bin.

    Raises:
        TrackingError: as `delete`, if the server cannot be reached or refuses.
    """

    def __init__(self, place: Place, study_id: str) -> None:
        self._place = place
        with impatient(), reached(place):
            self._client = MlflowClient(tracking_uri=place.address)
            self.ids = study_runs(self._client, place.experiment_id or "", study_id)

    def delete(self) -> None:
        """Puts the runs into MLflow's bin; a server has nothing else to offer its clients."""
        with impatient(), reached(self._place):
            _forget_champions(self._client, set(self.ids))
            for run_id in self.ids:
                self._client.delete_run(run_id)


class MlflowStore:
    """The MLflow store of `home`, which must be there.

    Raises:
        StoreError: if it cannot be read.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        with self._mapped("opened"):
            refuse_other_tables(home)
            self._client = MlflowClient(tracking_uri=home.mlflow_url)
            self.experiments = {found.name: found for found in self._experiments()}

    def folder(self, study: str, run_id: str | None = None) -> Path:
        """Where the artifacts of a study, or of one of its runs, are."""
        return self._home.artifacts / study / run_id if run_id else self._home.artifacts / study

    def delete_run(self, run_id: str) -> None:
        """Deletes a run's rows for good, and what is registered of it; its files are the caller's."""
        with self._mapped("written"):
            _forget_champions(self._client, {run_id})
            self._client._tracking_client.store._hard_delete_run(run_id)

    def delete_experiment(self, experiment: Experiment) -> None:
        """Deletes the rows of an experiment and of its runs for good, and what is registered of them."""
        for run in experiment.runs:
            self.delete_run(run.run_id)
        with self._mapped("written"):
            if not experiment.is_deleted:
                self._client.delete_experiment(experiment.experiment_id)
            self._client._tracking_client.store._hard_delete_experiment(experiment.experiment_id)

    @contextmanager
    def _mapped(self, done: str) -> Iterator[None]:
        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            raise StoreError(
                f"{self._home.mlflow_file} must be MLflow's SQLite store, but it cannot be {done}: {error}"
            ) from error

    def _experiments(self) -> list[Experiment]:
        """Those whose artifacts lie where sweeper puts them."""
        made = []
        for experiment in pages(self._client.search_experiments, view_type=ViewType.ALL):
            if experiment.artifact_location == f"{ARTIFACT_ROOT}/{experiment.name}":
                is_deleted = experiment.lifecycle_stage == LifecycleStage.DELETED
                runs = self._runs(experiment.experiment_id)
                made.append(Experiment(experiment.experiment_id, experiment.name, is_deleted, runs))
        return made

    def _runs(self, experiment_id: str) -> tuple[Run, ...]:
        runs: list[Run] = []
        for run in pages(self._client.search_runs, [experiment_id], run_view_type=ViewType.ALL):
            tags = run.data.tags
            is_trial = tags.get(KIND_TAG) == RunKind.TRIAL.value and NUMBER_TAG in tags
            number = int(tags[NUMBER_TAG]) if is_trial else None
            is_deleted = run.info.lifecycle_stage == LifecycleStage.DELETED
            runs.append(Run(run.info.run_id, number, is_deleted, KIND_TAG in tags))
        return tuple(runs)


def _forget_champions(client: MlflowClient, run_ids: set[str]) -> None:
    """Deletes the versions of registered models that exports of these runs made, and models that have no other."""
    ours = f"tags.`{KIND_TAG}` = '{MODEL_KIND}'"
    versions = [one for one in pages(client.search_model_versions, ours) if one.run_id in run_ids]
    for version in versions:
        client.delete_model_version(version.name, version.version)
    for name in {version.name for version in versions}:
        is_made_here = client.get_registered_model(name).tags.get(KIND_TAG) == MODEL_KIND
        if is_made_here and not client.search_model_versions(f"name = '{name}'", max_results=1):
            client.delete_registered_model(name)
