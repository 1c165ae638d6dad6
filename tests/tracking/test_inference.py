"""What serving costs is logged on a trial's run that has ended, on a server as in the store."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.paths import Home
from sweeper.serving import record
from sweeper.tracking.opened import opened
from sweeper.tracking.tracker import STUDY, RunKey, RunState
from sweeper.trial import RunKind
from tests.tracking.server import MEMBER, Server, as_member


def test_it_is_logged_on_a_server(
    server: Server, home: Home, composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_member(monkeypatch)
    config = composed("study=demo", f"tracking.uri={server.uri}", "tracking.experiment=served")
    paths = home.study("demo")
    paths.create()
    check.save(config, paths)
    tracker, trial = opened(paths, config), RunKey(RunKind.TRIAL, 0)
    tracker.start(STUDY, "demo", {}, {})
    tracker.start(trial, "t00", {}, {})
    tracker.end(trial, RunState.FINISHED, {})
    tracker.flush()

    paths.trial(0).mkdir(parents=True)
    found: dict[str, Any] = {"best_batch": 4}
    record.keep(paths, 0, found)
    lines: list[str] = []
    for usd in (0.5, math.nan):  # not a number: a later measurement had no price
        record.log(paths, config, 0, 32, {"inference/best_batch": 4.0, "inference/usd_per_1000": usd}, lines.append)
    assert lines == []

    member = server.client(*MEMBER)
    experiment = member.get_experiment_by_name("served")
    [run] = member.search_runs([experiment.experiment_id], "tags.`sweeper.kind` = 'trial'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["inference/best_batch"] == 4
    assert math.isnan(run.data.metrics["inference/usd_per_1000"])
    history = member.get_metric_history(run.info.run_id, "inference/usd_per_1000")
    assert history[0].value == 0.5
    assert [file.path for file in member.list_artifacts(run.info.run_id)] == ["inference.json"]
    assert record.kept(paths, 0) == found
