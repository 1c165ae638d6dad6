"""Before a study begins or goes on: does its tracking server do all that will be asked of it?

A run is written as a trial's would be, with a metric, a tag and an artifact, read back, and deleted. So a wrong
password or a missing right is known in seconds, and not when the first trial has been trained.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from sweeper.errors import TrackingError
from sweeper.tracking.mlflow_runs import STUDY_ID_TAG
from sweeper.tracking.mlflow_server import drop_artifacts, experiment, impatient, reached, repository
from sweeper.tracking.place import Place

_FOLDER, _FILE, _TEXT = "preflight", "preflight.txt", "written by sweeper's preflight, and deleted at once\n"


def probe(place: Place, study_id: str) -> tuple[str, list[str]]:
    """Writes, reads and deletes a run in the experiment of a place, which is made where there is none.

    Returns:
        The id of the experiment, and what a person should know of the place, a line each.

    Raises:
        TrackingError: if one of these is not possible.
    """
    with impatient(), reached(place):
        client = MlflowClient(tracking_uri=place.address)
        found = experiment(client, place)
        _refuse_foreign_folder(found, place)
        run = client.create_run(
            found.experiment_id, run_name="preflight of sweeper", tags={STUDY_ID_TAG: study_id}
        ).info.run_id
        try:
            client.log_metric(run, "preflight", 1.0)
            client.set_tag(run, "sweeper.preflight", "true")
            if client.get_run(run).data.metrics != {"preflight": 1.0}:
                raise TrackingError(f"what is written must be there, but {place} has no metric that was just logged")
            can_delete = _try_artifacts(repository(client, run), place)
        finally:
            client.delete_run(run)
    notes = [f"the runs go to {place}"]
    if not can_delete:
        notes.append(f"the artifact store of {place} cannot delete: adapters beyond store.keep_adapters stay there")
    return found.experiment_id, notes


def _try_artifacts(artifacts: ArtifactRepository, place: Place) -> bool:
    """Writes an artifact, reads it back and deletes it; False where it cannot be deleted."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _FILE
        file.write_text(_TEXT, encoding="utf-8")
        artifacts.log_artifact(str(file), _FOLDER)
        file.unlink()
        artifacts.download_artifacts(f"{_FOLDER}/{_FILE}", folder)
        if next(Path(folder).rglob(_FILE)).read_text(encoding="utf-8") != _TEXT:
            raise TrackingError(f"an artifact that is written must be read back, but {place} gave another one")
    return drop_artifacts(artifacts, _FOLDER)


def _refuse_foreign_folder(found: Experiment, place: Place) -> None:
    """A server without --serve-artifacts has its clients write into its folder, which is on its own machine."""
    parts = urlsplit(found.artifact_location)
    if parts.scheme not in ("", "file"):
        return
    root = Path(url2pathname(parts.path)).parent
    if not root.is_dir():
        raise TrackingError(
            f"the artifacts of {place} must be writable from here, but they lie in the folder {root} of the server's "
            "machine; have the server started with --serve-artifacts and --artifacts-destination, or a bucket"
        )
