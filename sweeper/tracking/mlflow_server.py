"""A study's runs on a tracking server that others use too: its own are told by the study's id, no others are touched.

Who one is there, MLflow's own variables say (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_TOKEN and so on). What goes
wrong is a `TrackingError`: the study stops with its trials in the queue, and goes on when it is launched again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus

import requests
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.tracking.artifact_utils import get_artifact_repository

from sweeper.disk import is_full
from sweeper.errors import AwayError, SweeperError, TrackingError
from sweeper.paths import Home
from sweeper.redaction import redacted
from sweeper.tracking.mlflow_runs import STUDY_ID_TAG, pages
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import Place
from sweeper.tracking.spool import Spool
from sweeper.tracking.tracker import RunKey, Watcher

logger = logging.getLogger(__name__)
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}  # MLflow's are for minutes
_ONE_TRY = {**_PATIENCE, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}  # for what is tried again here
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_BARRED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_ADDRESS = "see that it runs and that tracking.uri (or MLFLOW_TRACKING_URI) is its address"


class ServerTracker(MlflowTracker):
    """The runs of one study on a server.

    Raises:
        TrackingError: as every method, where the server cannot be reached or refuses.
    """

    def __init__(
        self,
        home: Home,
        study: str,
        place: Place,
        study_id: str,
        patience_s: float = 0.0,
        watcher: Watcher | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._place = place
        super().__init__(home, study, study_id, patience_s, watcher, spool)

    @property
    def place(self) -> str:
        known = self._experiment if self._is_connected else self._place.experiment_id
        return f"{self._place.uri} {known}"

    def _drop(self, key: RunKey, folder: str) -> None:
        drop_artifacts(self._repository(key), folder)

    def calling(self) -> AbstractContextManager[None]:
        return impatient(_ONE_TRY)

    def is_passing(self, error: Exception) -> bool:
        return is_passing(error) or is_full(error)

    def bars(self, error: Exception) -> bool:
        is_answered = isinstance(error, requests.RequestException) or not isinstance(error, OSError)
        return isinstance(error, SweeperError) or not is_answered or status_of(error) in _BARRED or _is_none(error)

    @property
    def _has_own_experiment(self) -> bool:
        return self._place.experiment == self._study

    def in_words(self, error: Exception) -> str:
        return str(error) if isinstance(error, TrackingError) else _words(self._place, error)

    def _open(self) -> tuple[MlflowClient, str]:
        client = MlflowClient(tracking_uri=self._place.address)
        return client, experiment(client, self._place).experiment_id

    @property
    def _filter(self) -> str:
        return own_runs(self._study_id or "")

    def _repository(self, key: RunKey) -> ArtifactRepository:
        return repository(self._client, self._runs[key])


def own_runs(study_id: str) -> str:
    """MLflow's filter for the runs of one study."""
    return f"tags.`{STUDY_ID_TAG}` = '{study_id}'"


def experiment(client: MlflowClient, place: Place) -> Experiment:
    """The experiment of a place, which is made where there is none.

    Raises:
        TrackingError: if it was deleted.
    """
    found = client.get_experiment_by_name(place.experiment)
    if found is None:
        try:
            client.create_experiment(place.experiment)
        except MlflowException as error:  # somebody else has made it meanwhile
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        found = client.get_experiment_by_name(place.experiment)
    if found.lifecycle_stage == LifecycleStage.DELETED:
        raise TrackingError(
            f"runs go to an experiment that is there, but {place} was deleted, and its name is still taken; restore it "
            f"(`mlflow experiments restore --experiment-id {found.experiment_id}`), or set tracking.experiment=NAME"
        )
    return found


def repository(client: MlflowClient, run_id: str) -> ArtifactRepository:
    """Where the artifacts of a run are, be that the server itself or a bucket."""
    uri = client.get_run(run_id).info.artifact_uri
    return get_artifact_repository(uri, tracking_uri=client.tracking_uri)


def drop_artifacts(artifacts: ArtifactRepository, folder: str) -> bool:
    """Deletes a folder of a run's artifacts; False where such stores cannot delete."""
    if not artifacts.list_artifacts(folder):
        return True
    try:
        artifacts.delete_artifacts(folder)
    except NotImplementedError:
        logger.warning("%s cannot delete artifacts: %s stays", type(artifacts).__name__, folder)
        return False
    return True


def study_runs(client: MlflowClient, experiment_id: str, study_id: str) -> list[str]:
    """The runs of one study in an experiment, those in MLflow's bin left out."""
    runs = pages(client.search_runs, [experiment_id], own_runs(study_id), ViewType.ACTIVE_ONLY)
    return [run.info.run_id for run in runs]


@contextmanager
def reached(place: Place) -> Iterator[None]:
    """Maps what a server and its artifact store may answer.

    Raises:
        AwayError: if it may answer a little later.
        TrackingError: if it refuses.
    """
    try:
        yield
    except (MlflowException, requests.RequestException) as error:  # of runs, and of artifacts
        raise (AwayError if is_passing(error) else TrackingError)(_words(place, error)) from error
    except OSError as error:  # of a folder that the artifact store is
        raise TrackingError(_words(place, error)) from error


def status_of(error: Exception) -> int | None:
    """What a server has answered, where it was one that did; MLflow has 500 for what had no answer."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    response = error.response if isinstance(error, requests.RequestException) else None
    return response.status_code if response is not None else None


def is_passing(error: Exception) -> bool:
    """Whether a server may do the same a little later: it was not there, was in trouble, or had too much to do."""
    if isinstance(error, MlflowException | requests.RequestException) and not _is_none(error):
        status = status_of(error)
        if status is None:
            return isinstance(error, requests.ConnectionError | requests.Timeout)
        return status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return False


@contextmanager
def impatient(limits: Mapping[str, str] = _PATIENCE) -> Iterator[None]:
    """MLflow gives up within seconds, unless the environment says when."""
    own = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _is_none(error: Exception) -> bool:
    """Whether what answered is no MLflow server."""
    return getattr(error, "error_code", "") == "ENDPOINT_NOT_FOUND" or "not in a valid JSON format" in str(error)


def _words(place: Place, error: Exception) -> str:
    reason = " ".join(redacted(str(error)).split())
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    who = f"as {name!r}" if name else "with a token" if os.environ.get("MLFLOW_TRACKING_TOKEN") else "without a name"
    match status_of(error):
        case HTTPStatus.UNAUTHORIZED:
            return f"a tracking server must let sweeper in, but {place.uri} refused it, {who} (401); {_LOGIN}"
        case HTTPStatus.FORBIDDEN:
            return (
                f"runs are written with the right to do so, but {place} refused that, {who} (403); ask for EDIT on it, "
                "or set tracking.experiment=NAME to one of your own"
            )
    if _is_none(error):
        return f"there must be an MLflow server at {place.uri}, but what answers is none; {_ADDRESS}"
    if "Max retries exceeded" in reason or "Connection" in type(error).__name__:
        cause = reason.rpartition("Caused by ")[2].removesuffix(")")
        return f"a tracking server must be reachable, but {place.uri} is not: {cause}; {_ADDRESS}"
    return f"runs are recorded in {place}, but that failed: {reason}"
