from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config import check
from sweeper.config.outside import CsvSource, StorageSource, StudySource, source_of
from sweeper.config.schema import Config
from sweeper.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("before", StudySource("before")),
        ("past.csv", CsvSource(Path("past.csv"))),
        ("/a/PAST.CSV", CsvSource(Path("/a/PAST.CSV"))),
        ("sqlite:///a.db#lr #2", StorageSource("sqlite:///a.db", "lr #2")),
        ("journal.log#one", StorageSource("journal.log", "one")),
    ],
)
def test_the_form_says_where_past_trials_are(given: str, expected: object) -> None:
    assert source_of(given) == expected


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tracking.uri=http://me:secret-one@host:5000", "tracking.uri: must have no user and no password in it"),
        ("tracking.uri=http://token-123456@host", "tracking.uri: must have no user and no password in it"),
        ("tracking.uri=localhost:5000", "must be a tracking server's address, http://HOST:PORT"),
        ("tracking.uri=sqlite:///mlflow.db", "but got 'sqlite:///mlflow.db'; tracking.uri=local takes"),
        ("tracking.uri=http://host:port", "must be a tracking server's address"),
        ("tracking.uri=mysql://me:secret-one@host", "but got 'one of another form'"),
        ("store.mirror=/mnt/mirror", "store.mirror: must be a URL, file:///FOLDER, s3://BUCKET/FOLDER"),
        ("store.mirror=file://relative", "but got 'file://relative'"),
        ("store.mirror=s3://", "store.mirror: must be a URL"),
        ("store.mirror=sftp://me:secret-one@host/x", "store.mirror: must have no password and no key in it"),
        ("store.mirror='s3://bucket/x?secret=secret-one'", "they belong into the environment: AWS_ACCESS_KEY_ID"),
        ("search.warm_start=demo", "must be another study than study.name, but got 'demo' twice"),
        ("search.warm_start=../past", "must be a study of the store, STORAGE_URL#STUDY, FILE#STUDY or FILE.csv"),
        ("search.warm_start='a.db#'", "must name both in STORAGE_URL#STUDY, but got no study"),
        ("search.warm_start='#s'", "but got no storage"),
        ("search.warm_start='postgresql://me:secret-one@host/db#s'", "set PGPASSWORD or write ~/.pgpass"),
        ("search.warm_start='postgresql://me@host/db?password=secret-one#s'", "must have no password in it"),
    ],
)
def test_what_is_refused_and_that_no_password_is_repeated(
    composed: Callable[..., Config], override: str, words: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        composed("study=demo", override)
    assert words in str(raised.value)
    assert "secret-one" not in str(raised.value)


def test_files_do_not_depend_on_where_one_launches_from(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, expected in {
        "past.csv": f"{tmp_path}/past.csv",
        "a/journal.log#s": f"{tmp_path}/a/journal.log#s",
        "sqlite:///a.db#s": f"sqlite:///{tmp_path}/a.db#s",
        "postgresql://me@host/db#s": "postgresql://me@host/db#s",
        "before": "before",
    }.items():
        config = check.with_absolute_paths(composed("study=demo", f"search.warm_start='{given}'"))
        assert config.search.warm_start == expected
        assert check.with_absolute_paths(config) == config
