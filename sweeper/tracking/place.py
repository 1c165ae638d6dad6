"""Where a study's runs are: in the store, or in an experiment of a tracking server; and the id that tells them apart.

The id and the servers where a study has had runs are kept in its folder, without credentials: those are in the
environment, and are looked for there each time.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass

from sweeper.config.outside import LOCAL, uri_problems, without_credentials
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, StoreError
from sweeper.paths import StudyPaths, write_atomically

VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Place:
    """One experiment.

    Attributes:
        uri: the server's address, without credentials; None: the store.
        experiment_id: once it is known; a name may change.
    """

    uri: str | None
    experiment: str
    experiment_id: str | None = None

    @classmethod
    def of(cls, config: Config) -> Place:
        """Where the runs of a study go now.

        Raises:
            ConfigError: if the environment names no server, or an experiment is named without one.
        """
        given = config.tracking.uri or os.environ.get(VARIABLE) or LOCAL
        if given != LOCAL:
            if config.tracking.uri is None and (problems := uri_problems(VARIABLE, given)):
                raise ConfigError(problems)
            return cls(without_credentials(given), config.tracking.experiment or config.study.name)
        if config.tracking.experiment is not None:
            raise ConfigError(
                f"tracking.experiment: names an experiment of a tracking server, but got "
                f"{config.tracking.experiment!r} without a server, and in the store each study has its own; set "
                f"tracking.uri or {VARIABLE}, or tracking.experiment=null"
            )
        return cls(None, config.study.name)

    @property
    def address(self) -> str:
        """The server's address for MLflow, with the credentials that the environment has in it."""
        assert self.uri is not None
        given = os.environ.get(VARIABLE)
        return given if given and without_credentials(given) == self.uri else self.uri

    def __str__(self) -> str:
        return f"experiment {self.experiment!r} at {self.uri}" if self.uri else "the store"


@dataclass(frozen=True)
class Record:
    """What is kept of a study: its id, and the servers where it has runs."""

    study_id: str
    places: tuple[Place, ...]


def record(paths: StudyPaths) -> Record | None:
    """What is kept of a study; None where it has not been launched.

    Raises:
        StoreError: if the file cannot be read.
    """
    try:
        kept = json.loads(paths.tracking.read_text(encoding="utf-8"))
        return Record(str(kept["study_id"]), tuple(Place(**place) for place in kept["places"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{paths.tracking} must say where the study's runs are, but it cannot be read: {error}. "
            "Without it, runs on a tracking server would not be found again"
        ) from error


def identify(paths: StudyPaths) -> str:
    """The study's id; a new one at its first launch."""
    kept = record(paths)
    if kept is None:
        kept = Record(uuid.uuid4().hex, ())
        _write(paths, kept)
    return kept.study_id


def known(paths: StudyPaths, place: Place) -> Place:
    """A place as the study has had runs there before, with the id of its experiment; as it is where it has had none."""
    kept = record(paths)
    before = [one for one in kept.places if (one.uri, one.experiment) == (place.uri, place.experiment)] if kept else []
    return before[-1] if before else place


def keep(paths: StudyPaths, place: Place) -> None:
    """Notes that a study has runs in an experiment of a server."""
    kept = record(paths)
    assert kept is not None  # it has been identified
    if place not in kept.places:
        _write(paths, Record(kept.study_id, (*kept.places, place)))


def _write(paths: StudyPaths, kept: Record) -> None:
    write_atomically(paths.tracking, json.dumps(asdict(kept), indent=1))
