"""What a study's run in MLflow says of it, while it runs and at its end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeper.config import check
from sweeper.errors import StoreError, TrackingError
from sweeper.events import EventLog
from sweeper.money.account import statement
from sweeper.money.statement import Statement
from sweeper.paths import Home, StudyPaths
from sweeper.plots.album import Album
from sweeper.plots.picture import LIGHT, Theme, picture
from sweeper.report import figures
from sweeper.search.study import Search
from sweeper.search.views import view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import NOTE_TAG, STUDY, RunState, Tracker
from sweeper.worker import reports
from sweeper.worker.reports import Reports
from sweeper.worker.session import Session
from tests.housekeeping.conftest import Make
from tests.housekeeping.conftest import make as make
from tests.memory_tracker import MemoryTracker
from tests.money.booked import PRICE
from tests.search.conftest import ask, complete
from tests.worker.conftest import Prepare


class Study:
    """A study with trials that nothing trained, and what is said of it."""

    def __init__(self, paths: StudyPaths, tracker: Tracker) -> None:
        self.paths, self.config, self.tracker = paths, check.load(paths), tracker
        self.search = Search(paths.home, self.config)
        self.events = EventLog(paths.events)
        spending: Any = SimpleNamespace(account=self.account)
        self.reports = Reports(paths, self.config, self.search, tracker, spending, self.events)
        tracker.start(STUDY, paths.name, {}, {})

    def account(self) -> Statement:
        return statement(self.search.engine, self.search.seen(), PRICE)

    def end_trial(self, score: float) -> None:
        complete(self.search, ask(self.search).number, score)
        self.reports.trial_ended(self.search.seen())

    def notes(self) -> list[str]:
        lines = map(json.loads, self.paths.events.read_text().splitlines())
        return [line["message"] for line in lines if line["event"] == "note"]


@pytest.fixture
def opened() -> Iterator[Callable[[StudyPaths, Tracker], Study]]:
    made: list[Study] = []

    def study(paths: StudyPaths, tracker: Tracker) -> Study:
        made.append(Study(paths, tracker))
        return made[-1]

    yield study
    for one in made:
        one.events.close()


Open = Callable[[StudyPaths, Tracker], Study]


def described(tracker: MemoryTracker) -> str:
    return tracker.runs[STUDY].tags[NOTE_TAG]


def test_the_description_follows_the_best_trial(make: Make, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MemoryTracker()
    study = opened(make("demo", (0.5, 0.7), "study.description='# Mine'", "search.trials=16"), tracker)
    study.reports.describe()
    first = described(tracker)
    assert first.startswith("# Mine\n\n**So far the best is trial 1 (")
    assert "The study is running: 2 of 16 trials have ended" in first
    assert "| **1** |" in first
    assert "sweeper export demo --to my-adapter" in first
    study.end_trial(0.6)  # no better, and a moment later
    assert described(tracker) == first
    study.end_trial(0.8)
    assert "So far the best is trial 2" in described(tracker) or "So far the best is trial 3" in described(tracker)
    assert "4 of 16 trials have ended" in described(tracker)
    monkeypatch.setattr(reports, "EVERY_S", 0.0)
    study.end_trial(0.6)
    assert "5 of 16 trials have ended" in described(tracker)


def test_it_stays_cheap(make: Make, opened: Open) -> None:
    """Whatever it costs, it does so once a minute: an end that changes nothing writes nothing."""
    tracker = MemoryTracker()
    study = opened(make("demo", (0.5,) * 7), tracker)
    study.reports.describe()
    seen = study.search.seen()
    started = time.process_time()
    for _ in range(100):
        study.reports.trial_ended(seen)
    assert time.process_time() - started < 0.1
    started = time.process_time()
    study.reports.describe()
    assert time.process_time() - started < 0.6  # a hundredth of a minute


def test_the_end_of_a_session(make: Make, opened: Open) -> None:
    tracker = MemoryTracker()
    study = opened(make(), tracker)
    with study.reports.logged(lambda: False):
        tracker.end(STUDY, RunState.KILLED, {})
    run = tracker.runs[STUDY]
    assert run.state is RunState.KILLED
    assert run.files["report"] == ["report.html", "report.md"]
    assert run.files["pictures"] == sorted(run.files["pictures"])
    assert "interaction.png" in run.files["pictures"]
    assert "The study is not finished" in described(tracker)
    assert study.notes() == []


def test_who_wants_none_or_waits_has_the_description_alone(make: Make, opened: Open) -> None:
    for name, is_on, is_stopping in (("off", False, False), ("stopped", True, True)):
        tracker = MemoryTracker()
        study = opened(make(name, (0.5,), f"tracking.report={is_on}"), tracker)
        with study.reports.logged(lambda is_stopping=is_stopping: is_stopping):
            pass
        assert set(tracker.runs[STUDY].files) == set()
        assert "So far the best is trial 0" in described(tracker)


def test_a_picture_that_fails_is_said_and_costs_no_other(
    make: Make, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is broken in the light, one only on a dark page, and one before it is drawn."""

    def dark_only(_figure: Any, theme: Theme) -> None:
        assert theme is LIGHT

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a row of the data")

    real = figures.album
    odd = [picture("odd", "Odd", "It is.", broken), picture("night", "Night", "It is.", dark_only)]

    def with_odd_ones(*arguments: Any) -> Album:
        found = real(*arguments)
        return Album([*odd, *found.pictures], found.left_out)

    tracker = MemoryTracker()
    study = opened(make(), tracker)
    monkeypatch.setattr(figures, "album", with_odd_ones)
    monkeypatch.setattr("sweeper.plots.album.learning_curves", broken)
    with study.reports.logged(lambda: False):
        pass
    why = {"learning_curves": "ZeroDivisionError", "odd": "ZeroDivisionError", "night": "AssertionError"}
    assert study.notes() == [
        f"the picture {name} is left out: it cannot be drawn: {error}" for name, error in why.items()
    ]
    assert "interaction.png" in tracker.runs[STUDY].files["pictures"]
    assert not {f"{name}.png" for name in why} & set(tracker.runs[STUDY].files["pictures"])
    assert "report.html" in tracker.runs[STUDY].files["report"]


def test_what_fails_is_said_and_harms_nothing(make: Make, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise StoreError("no space left")

    study = opened(make(), MemoryTracker())
    monkeypatch.setattr(reports, "figures", full)
    with study.reports.logged(lambda: False):
        pass
    assert study.notes() == ["the report is not logged: no space left"]
    with pytest.raises(KeyError), study.reports.logged(lambda: False):  # after an error nothing is logged
        raise KeyError


def test_a_defect_in_a_sentence_stops_no_study(make: Make, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MemoryTracker()
    study = opened(make("demo", (0.5,), "search.trials=16"), tracker)
    study.reports.describe()
    first = described(tracker)

    def broken(*_: Any) -> Any:
        raise ValueError("a row of the data")

    with monkeypatch.context() as patched:
        patched.setattr(reports, "note", broken)
        study.reports.describe()
        study.end_trial(0.8)
        study.end_trial(0.9)
    assert study.notes() == ["the description is not logged: ValueError"]
    assert described(tracker) == first
    study.end_trial(0.95)
    assert "4 of 16 trials have ended" in described(tracker)

    def refused(*_: Any) -> Any:
        raise TrackingError("the server is away")

    monkeypatch.setattr(tracker, "describe", refused)
    with pytest.raises(TrackingError):
        study.reports.describe()


def test_what_goes_to_the_run_has_no_folders_of_this_machine(
    make: Make, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    tracker = MemoryTracker()
    study = opened(make("demo", (0.5,), f"data.path={tmp_path / 'ours' / 'rows.jsonl'}"), tracker)
    monkeypatch.setattr(
        tracker, "log_file", lambda key, file, folder="": texts.append(file.read_text(errors="replace"))
    )
    with study.reports.logged(lambda: False):
        pass
    texts.append(described(tracker))
    assert any("…/ours/rows.jsonl" in text for text in texts)
    assert not any(str(tmp_path) in text for text in texts)


def test_in_mlflow_the_experiment_says_it_too(make: Make, opened: Open, home: Home, migrated: Path) -> None:
    shutil.copy(migrated, home.mlflow_file)
    tracker = MlflowTracker(home, "demo")
    study = opened(make(), tracker)
    tracker.end(STUDY, RunState.FINISHED, {})
    study.reports.describe(is_running=False)
    tracker.flush()
    client = MlflowClient(home.mlflow_url)
    experiment = client.get_experiment_by_name("demo")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.tags[NOTE_TAG] == experiment.tags[NOTE_TAG]
    assert "So far the best is trial 1" in run.data.tags[NOTE_TAG]
    assert run.info.status == "FINISHED"  # whatever its state


def test_a_whole_session(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("tracking.report=true", "search.trials=2"), MemoryTracker()
    assert Session(paths, tracker, lambda: False).run() == {"status": "finished"}
    run = tracker.runs[STUDY]
    assert run.files["report"] == ["report.html", "report.md"]
    assert {"learning_curves.png", "memory.png"} <= set(run.files["pictures"])
    best = view(home, "demo").best
    assert best is not None
    assert f"The best is trial {best.number} (" in run.tags[NOTE_TAG]
    assert "The study is finished: 2 of 2 trials have ended" in run.tags[NOTE_TAG]
    assert run.tags[NOTE_TAG].startswith("Bundled tickets on the bundled model\n\n")
