"""What a configuration names outside of the store: its database, a tracking server, a mirror, and past trials.

None may have a password in it, since configurations are kept, logged and shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sweeper.config.schema import Config
from sweeper.database import CREDENTIALS, database_problems, has_password
from sweeper.redaction import redacted

LOCAL = "local"  # tracking.uri: the store, whatever the environment says
_CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_HOST_IS_NEEDED = ("http", "https")


@dataclass(frozen=True)
class StudySource:
    """Another study of the store."""

    study: str


@dataclass(frozen=True)
class StorageSource:
    """A study of any Optuna storage.

    Attributes:
        storage: a URL, or the path of an SQLite or journal file.
    """

    storage: str
    study: str


@dataclass(frozen=True)
class CsvSource:
    """Past trials, a line each."""

    file: Path


Source = StudySource | StorageSource | CsvSource


def source_of(warm_start: str) -> Source:
    """What `search.warm_start` names, by its form alone."""
    storage, hash_sign, study = warm_start.partition("#")
    if hash_sign:
        return StorageSource(storage, study)
    if warm_start.lower().endswith(".csv"):
        return CsvSource(Path(warm_start))
    return StudySource(warm_start)


def absolute_source(warm_start: str) -> str:
    """The same with an absolute path, where it is one, so that it does not depend on where one launches from."""
    match source_of(warm_start):
        case CsvSource(file):
            return str(_absolute(str(file)))
        case StorageSource(storage, study) if storage.startswith("sqlite:///") and "?" not in storage:
            return f"sqlite:///{_absolute(storage.removeprefix('sqlite:///'))}#{study}"
        case StorageSource(storage, study) if "://" not in storage:
            return f"{_absolute(storage)}#{study}"
    return warm_start


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def problems(config: Config) -> list[str]:
    """What is wrong with the form of what is outside, a line each."""
    found = []
    if config.store.optuna is not None:
        found += database_problems("store.optuna", config.store.optuna)
        if not found and has_password(config.store.optuna):
            found.append(f"store.optuna: must have no password in it, since it is kept and shown; set {CREDENTIALS}")
    if config.tracking.uri is not None and config.tracking.uri != LOCAL:
        wrong = uri_problems("tracking.uri", config.tracking.uri)
        found += wrong
        if not wrong and has_credentials(config.tracking.uri):
            found.append(
                f"tracking.uri: must have no user and no password in it, since it is kept with the study; set "
                f"{_CREDENTIALS}, or the whole address as MLFLOW_TRACKING_URI"
            )
    return found + _mirror_problems(config.store.mirror) + _warm_start_problems(config)


def uri_problems(where: str, uri: str) -> list[str]:
    """Why an address is no tracking server's."""
    try:
        parts = urlsplit(uri)
        is_server = parts.scheme in _HOST_IS_NEEDED and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, brackets that are not closed
        is_server = False
    if is_server:
        return []
    shown = uri if "@" not in uri else "one of another form"
    return [
        f"{where}: must be a tracking server's address, http://HOST:PORT or https://HOST, but got {shown!r}; "
        f"tracking.uri={LOCAL} takes the store's own"
    ]


def has_credentials(uri: str) -> bool:
    """Whether a user or a password stands before the host."""
    return "@" in urlsplit(uri).netloc


def without_credentials(uri: str) -> str:
    """The address as it may be shown and kept."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def _mirror_problems(mirror: str | None) -> list[str]:
    where = "store.mirror"
    if mirror is None:
        return []
    scheme, is_url, rest = mirror.partition("://")
    if not is_url or not scheme or not rest or (scheme == "file" and not rest.startswith("/")):
        return [
            f"{where}: must be a URL, file:///FOLDER, s3://BUCKET/FOLDER, sftp://HOST/FOLDER and the like, but got "
            f"{redacted(mirror)!r}"
        ]
    if ":" in rest.rpartition("@")[0] or re.search(r"[?&](password|secret|token|key)=", rest.lower()):
        return [
            f"{where}: must have no password and no key in it, since it is kept with the study; they belong into the "
            "environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, an SSH agent"
        ]
    return []


def _warm_start_problems(config: Config) -> list[str]:
    where, given = "search.warm_start", config.search.warm_start
    if given is None:
        return []
    match source_of(given):
        case StudySource(study) if study == config.study.name:
            return [f"{where}: must be another study than study.name, but got {study!r} twice"]
        case StudySource(study) if "/" in study:
            return [
                f"{where}: must be a study of the store, STORAGE_URL#STUDY, FILE#STUDY or FILE.csv, but got {study!r}"
            ]
        case StorageSource(storage, study) if not storage or not study:
            return [f"{where}: must name both in STORAGE_URL#STUDY, but got {'no study' if storage else 'no storage'}"]
        case StorageSource(storage, _) if "://" in storage and (
            ":" in storage.partition("://")[2].rpartition("@")[0] or "password=" in storage
        ):
            return [
                f"{where}: must have no password in it, since it is kept with the study; set PGPASSWORD or write "
                "~/.pgpass (PostgreSQL), or use ?read_default_file=~/.my.cnf (MySQL)"
            ]
    return []
