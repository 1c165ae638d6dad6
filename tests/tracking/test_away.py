"""A tracking server that is away for a while, and a store that another process holds: nothing is lost.

By default for seconds; `make test-all` has a whole minute.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import TrackingError
from sweeper.events import EventLog, EventReader
from sweeper.paths import Home
from sweeper.search.views import view
from sweeper.tracking.mlflow_server import ServerTracker
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import Place, identify
from sweeper.tracking.tracker import STUDY, RunKey, RunState, Watcher
from sweeper.trial import RunKind
from sweeper.worker.recorder import RUN_STATES, trial_key
from sweeper.worker.session import Session
from tests.conftest import SHORT
from tests.tracking.server import PlainServer, plain_server

IS_ALL = os.environ.get("SWEEPER_TESTS") == "all"
AWAY_S, HELD_S = (60, 25) if IS_ALL else (3, 2)
TRIAL = RunKey(RunKind.TRIAL, 0)
Points = dict[tuple[RunKey, str], list[tuple[int, float]]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[PlainServer]:
    with plain_server(tmp_path_factory.mktemp("plain"), migrated) as server:
        yield server


class Noting(ServerTracker):
    """Notes what it was given."""

    given: Points

    def log(self, key: RunKey, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.given[key, name].append((step, value))
        super().log(key, metrics, step)


def stored(tracker: MlflowTracker) -> Points:
    """Every point that the store has."""
    client, found = tracker._client, {}
    for key, run_id in tracker._runs.items():
        for name in client.get_run(run_id).data.metrics:
            history = sorted(client.get_metric_history(run_id, name), key=lambda point: (point.step, point.timestamp))
            found[key, name] = [(point.step, point.value) for point in history]
    return found


@pytest.mark.usefixtures("known_formulas")
def test_a_server_that_is_away_for_a_while_loses_no_point(
    plain: PlainServer, home: Home, few_tickets: Path, composed: Callable[..., Config]
) -> None:
    size = ("train.examples=128", "evaluation.count=4", "checkpoint.every_s=1")
    config = composed(*SHORT, *size, f"data.path={few_tickets}", f"tracking.uri={plain.uri}")
    paths = home.study("demo")
    paths.create()
    check.save(config, paths)
    log = EventLog(paths.events)
    watcher = Watcher(lambda line: log.write("note", message=line), lambda: False)
    tracker = Noting(home, "demo", Place.of(config), identify(paths), config.tracking.patience_s, watcher)
    tracker.given = defaultdict(list)
    reader = EventReader(paths.events)
    events: list[dict[str, Any]] = []
    back = threading.Timer(AWAY_S, plain.start)

    def is_stopping() -> bool:
        events.extend(reader.new())
        if plain.is_up and not back.is_alive() and not back.finished.is_set() and sees("tick"):
            plain.kill()
            back.start()
        return False

    def sees(kind: str) -> list[dict[str, Any]]:
        return [event for event in events if event["event"] == kind]

    assert Session(paths, tracker, is_stopping).run() == {"status": "finished"}
    log.close()
    back.join()
    events.extend(reader.new())
    notes = [event["message"] for event in sees("note") if event["message"].startswith("runs can")]
    assert len(notes) == 2
    assert notes[0].startswith("runs cannot be written now, and are held back for up to 300 s")
    assert f"{plain.uri} is not" in notes[0]
    assert notes[1].startswith("runs can be written again after ")
    gone, here = (next(e["time"] for e in sees("note") if e["message"] == note) for note in notes)
    assert any(gone < event["time"] < here for event in sees("tick"))  # training went on

    trials = view(home, "demo").trials
    assert {trial_key(trial.number): RUN_STATES[trial.state] for trial in trials}.items() <= tracker.states().items()
    found = stored(tracker)
    assert found == {which: sorted(points) for which, points in tracker.given.items()}
    for trial in trials:
        assert [value for _, value in found[trial_key(trial.number), "accuracy"]] == list(trial.evaluations)
        assert len(found[trial_key(trial.number), "train/loss"]) == 16


def test_a_store_that_another_process_holds_loses_no_point(home: Home, migrated: Path) -> None:
    shutil.copy(migrated, home.root)
    tracker = MlflowTracker(home, "study", patience_s=120)
    tracker.start(STUDY, "study", {}, {})
    tracker.start(TRIAL, "t00", {}, {})
    tracker.flush()
    other = sqlite3.connect(home.mlflow_file, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(HELD_S, other.rollback)
    release.start()
    begun = time.monotonic()
    for step in range(50):
        tracker.log(TRIAL, {"train/loss": 1.0 / (step + 1)}, step)
    tracker.end(TRIAL, RunState.FINISHED, {})
    assert time.monotonic() - begun < 1  # nobody waits for it
    tracker.flush()
    assert time.monotonic() - begun > HELD_S - 0.5
    assert stored(tracker)[TRIAL, "train/loss"] == [(step, 1.0 / (step + 1)) for step in range(50)]
    assert tracker.states()[TRIAL] is RunState.FINISHED
    other.close()


def test_points_that_are_written_twice_are_there_once(home: Home, migrated: Path) -> None:
    shutil.copy(migrated, home.root)
    tracker = MlflowTracker(home, "study")
    tracker.start(STUDY, "study", {}, {})
    tracker.log(STUDY, {"accuracy": 0.5, "macro_f1": 0.25}, 1)
    points = next(task.points for task in tracker._writer._tasks if task.points)
    tracker.flush()
    tracker._writer.ask(lambda _: tracker._write(STUDY, points))  # as where the first answer was lost
    assert stored(tracker) == {(STUDY, "accuracy"): [(1, 0.5)], (STUDY, "macro_f1"): [(1, 0.25)]}


def test_one_that_stays_away_is_an_error_in_the_end(plain: PlainServer, home: Home) -> None:
    tracker = ServerTracker(home, "study", Place(plain.uri, "short"), "a" * 32, patience_s=1.0)
    tracker.start(STUDY, "study", {}, {})
    tracker.flush()
    plain.kill()
    tracker.log(STUDY, {"accuracy": 0.5}, 1)
    with pytest.raises(
        TrackingError, match=r"must be reachable, but .* \(it was tried again for 1\.\d s; tracking.pat"
    ):
        tracker.flush()
    with pytest.raises(TrackingError, match="must be reachable"):
        tracker.log(STUDY, {"accuracy": 0.5}, 2)
