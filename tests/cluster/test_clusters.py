"""Which cluster the settings name, and what it needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from sweeper.cluster.clusters import cluster_of
from sweeper.cluster.local import LocalCluster
from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.paths import Home


def test_this_machine_is_the_default(home: Home, composed: Callable[..., Config]) -> None:
    assert isinstance(cluster_of(home.study("demo"), composed("study=demo"), 0.0), LocalCluster)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_extra_that_is_missing_is_named(
    home: Home, composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    config = composed("study=demo", f"cluster={name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ConfigError) as caught:
        cluster_of(home.study("demo"), config, 0.0)
    assert f"cluster: {name} needs {package}, which is not installed: pip install 'sweeper[{name}]'" in str(
        caught.value
    )
