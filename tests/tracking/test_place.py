from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.config.schema import Config
from sweeper.errors import ConfigError, StoreError
from sweeper.paths import Home
from sweeper.tracking.place import Place, identify, keep, record

Compose = Callable[..., Config]


def place(composed: Compose, *overrides: str) -> Place:
    return Place.of(composed("study=demo", *overrides))


def test_the_setting_comes_before_the_environment_and_that_before_the_store(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place(composed) == Place(None, "demo")
    uri, experiment = "tracking.uri=https://one.example/mlflow/", "tracking.experiment='many of us'"
    assert place(composed, uri) == Place("https://one.example/mlflow", "demo")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:of-the-server@two.example:5000")
    assert place(composed, experiment) == Place("http://two.example:5000", "many of us")
    assert place(composed, uri, experiment) == Place("https://one.example/mlflow", "many of us")
    assert place(composed, "tracking.uri=local") == Place(None, "demo")


def test_credentials_are_looked_for_in_the_environment_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "http://me:of-the-server@two.example:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert Place("http://two.example:5000", "x").address == given
    assert Place("http://one.example:5000", "x").address == "http://one.example:5000"  # never to another server


def test_what_is_no_place_is_refused(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"names an experiment of a tracking server, but got 'x' without a server"):
        place(composed, "tracking.experiment=x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI: must be a tracking server's address.*'sqlite:///"):
        place(composed)


def test_a_study_keeps_its_id_and_where_it_has_runs(home: Home) -> None:
    paths = home.study("demo")
    paths.create()
    assert record(paths) is None
    study_id = identify(paths)
    assert len(study_id) == 32
    assert identify(paths) == study_id
    for number in ("1", "2", "1"):
        keep(paths, Place("http://one.example", "shared", number))
    kept = record(paths)
    assert kept is not None
    assert (kept.study_id, [place.experiment_id for place in kept.places]) == (study_id, ["1", "2"])
    assert paths.tracking.name in paths.known
    paths.tracking.write_text("{")
    with pytest.raises(StoreError, match="must say where the study's runs are"):
        record(paths)
