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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import AwayError, TrackingError
from sweeper.events import EventLog, EventReader
from sweeper.launching.launcher import prepare_tracking
from sweeper.paths import Home
from sweeper.search.views import is_finished, view
from sweeper.tracking.mlflow_probe import probe
from sweeper.tracking.mlflow_server import ServerTracker
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.operation import Kind
from sweeper.tracking.place import Place, identify, keep, known
from sweeper.tracking.spool import Spool, waiting
from sweeper.tracking.tracker import STUDY, RunKey, RunState, Watcher
from sweeper.trial import RunKind
from sweeper.worker.recorder import RUN_STATES, trial_key
from sweeper.worker.session import Session
from sweeper.worker.sync import Synced, sync
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

    def log_missing(self, key: RunKey, metric: str, points: Sequence[tuple[int, dict[str, float]]]) -> None:
        for step, metrics in points:
            for name, value in metrics.items():
                if (step, value) not in self.given[key, name]:
                    self.given[key, name].append((step, value))
        super().log_missing(key, metric, points)


def stored(tracker: MlflowTracker) -> Points:
    """Every point that the store has."""
    client, found = tracker._client, {}
    for key, run_id in tracker._runs.items():
        for name in client.get_run(run_id).data.metrics:
            history = sorted(client.get_metric_history(run_id, name), key=lambda point: (point.step, point.timestamp))
            found[key, name] = [(point.step, point.value) for point in history]
    return found


class Course:
    """A study whose server goes away once something has happened, and is back later, or not."""

    def __init__(self, home: Home, config: Config, server: PlainServer, until: str, back_s: float | None) -> None:
        self.paths = home.study("demo")
        self.paths.create()
        check.save(config, self.paths)
        self.server, self._until = server, until
        self.back = threading.Timer(back_s, server.start) if back_s is not None else None
        self._log = EventLog(self.paths.events)
        watcher = Watcher(lambda line: self._log.write("note", message=line), lambda: False)
        settings = config.tracking.patience_s, watcher, Spool(self.paths.spool, "worker-0")
        self.tracker = Noting(home, "demo", Place.of(config), identify(self.paths), *settings)
        self.tracker.given = defaultdict(list)
        self._reader = EventReader(self.paths.events)
        self.events: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        outcome = Session(self.paths, self.tracker, self._is_stopping).run()
        self._log.close()
        if self.back is not None:
            self.back.join()
        self.events.extend(self._reader.new())
        self.tracker.close()
        return outcome

    def _is_stopping(self) -> bool:
        self.events.extend(self._reader.new())
        if self.server.is_up and not self._has_gone and self.sees(self._until):
            self._has_gone = True
            self.server.kill()
            if self.back is not None:
                self.back.start()
        return False

    _has_gone = False

    def sees(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def notes(self, of: str) -> list[str]:
        return [event["message"] for event in self.sees("note") if of in event["message"]]


@pytest.fixture
def course(
    plain: PlainServer, home: Home, few_tickets: Path, composed: Callable[..., Config]
) -> Callable[[str, float | None], Course]:
    size = ("train.examples=128", "evaluation.count=4", "checkpoint.every_s=1", "tracking.patience_s=120")
    config = composed(*SHORT, *size, f"data.path={few_tickets}", f"tracking.uri={plain.uri}")
    home.study("demo").create()
    place = replace(Place.of(config), experiment_id=probe(Place.of(config), identify(home.study("demo")))[0])

    def begin(until: str, back_s: float | None) -> Course:
        patience = {"patience_s": 1.0} if back_s is None else {}
        own = config.model_copy(update={"tracking": config.tracking.model_copy(update=patience)})
        made = Course(home, own, plain, until, back_s)
        keep(made.paths, place)
        return made

    return begin


def agrees(home: Home, course: Course) -> None:
    """Whether the server has what was given, each point once, and says of each trial what the storage says."""
    place, given = Place.of(check.load(course.paths)), course.tracker.given
    tracker = ServerTracker(home, "demo", place, identify(course.paths))
    trials = view(home, "demo").trials
    assert {trial_key(trial.number): RUN_STATES[trial.state] for trial in trials}.items() <= tracker.states().items()
    found = stored(tracker)
    assert found == {which: sorted(points) for which, points in given.items()}
    for trial in trials:
        assert [value for _, value in found[trial_key(trial.number), "accuracy"]] == list(trial.evaluations)
        assert len(found[trial_key(trial.number), "train/loss"]) == 16


@pytest.mark.usefixtures("known_formulas")
def test_a_server_that_is_away_for_a_while_loses_no_point(
    home: Home, course: Callable[[str, float | None], Course]
) -> None:
    made = course("tick", AWAY_S)
    assert made.run() == {"status": "finished"}
    gone, here = made.notes("runs can")
    assert gone.startswith("runs cannot be written now, and wait on the disk until they can: ")
    assert f"{made.server.uri} is not" in gone
    assert here.startswith("runs can be written again after ")
    gone_s, here_s = (next(e["time"] for e in made.sees("note") if e["message"] == note) for note in (gone, here))
    assert any(gone_s < event["time"] < here_s for event in made.sees("tick"))  # training went on
    assert made.notes("sweeper sync") == []
    assert waiting(made.paths.spool) == 0
    agrees(home, made)


@pytest.mark.usefixtures("known_formulas")
def test_a_server_that_never_comes_back_keeps_no_study_from_its_end(
    home: Home, course: Callable[[str, float | None], Course], plain: PlainServer
) -> None:
    made = course("trial_ended", None)
    assert made.run() == {"status": "finished"}
    config = check.load(made.paths)
    seen = view(home, "demo")
    assert is_finished(seen, config)
    assert seen.attributes["test"]["trial"] == seen.best.number if seen.best else False
    count = waiting(made.paths.spool)
    assert count > 20
    [said] = made.notes("`sweeper sync demo`")
    assert said.startswith(
        f"{count} writes to the study's runs wait in {made.paths.spool} for their store; `sweeper sy"
    )
    lines: list[str] = []
    place = Place.of(config)
    assert prepare_tracking(place, made.paths, lines.append, has_begun=True) == known(made.paths, place)
    assert lines[0].startswith("warning: the study goes on, and what is written to its runs waits on the disk: a track")
    with pytest.raises(AwayError, match="must be reachable"):
        prepare_tracking(place, made.paths, lines.append)  # a study that is to begin

    assert sync(made.paths, lines.append) == Synced(0, count, is_even=False)
    assert waiting(made.paths.spool) == count
    plain.start()
    shutil.rmtree(made.paths.adapter(seen.best.number if seen.best else 0))  # a file that is gone meanwhile is left out
    synced = sync(made.paths, lines.append)
    assert synced == Synced(count, 0, is_even=True)
    assert synced.in_words(made.paths) == f"{count} writes sent: the runs of demo are as its storage says"
    assert waiting(made.paths.spool) == 0
    agrees(home, made)


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
    points = next(one for one in tracker._waiting._further if one.kind is Kind.POINTS)  # type: ignore[attr-defined]
    tracker.flush()
    tracker._writer.give(points)  # as where the first answer was lost
    tracker.flush()
    assert stored(tracker) == {(STUDY, "accuracy"): [(1, 0.5)], (STUDY, "macro_f1"): [(1, 0.25)]}


def test_one_that_stays_away_is_an_error_where_nothing_is_kept(plain: PlainServer, home: Home) -> None:
    tracker = ServerTracker(home, "study", Place(plain.uri, "short"), "a" * 32, patience_s=1.0)
    tracker.start(STUDY, "study", {}, {})
    tracker.flush()
    plain.kill()
    tracker.log(STUDY, {"accuracy": 0.5}, 1)
    with pytest.raises(AwayError, match=r"must be reachable, but .* \(it was tried again for 1\.\d s\)"):
        tracker.flush()
    with pytest.raises(TrackingError, match="must be reachable"):
        tracker.log(STUDY, {"accuracy": 0.5}, 2)
