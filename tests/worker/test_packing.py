from __future__ import annotations

import json

import pytest

from sweeper.engine.pack import Pack
from sweeper.money.pace import known_pace
from sweeper.money.packing import Packing
from sweeper.paths import Home
from sweeper.search.views import view
from sweeper.tracking.tracker import STUDY
from sweeper.worker import packing
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare
from tests.worker.test_session import run

AUTO = ("engine.slots=auto", "search.trials=8", "pruner=none")


def notes(paths: object) -> list[str]:
    lines = [json.loads(line) for line in paths.events.read_text().splitlines()]  # type: ignore[attr-defined]
    return [line["message"] for line in lines if line["event"] == "note"]


def test_what_a_step_takes_is_measured_and_kept(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare(*AUTO), MemoryTracker()
    assert run(paths, tracker)["status"] == "finished"
    [(where, kept)] = view(home, paths.name).attributes["packing"].items()
    assert kept["most"] == 2  # a quarter of the trials
    measured = Packing.from_dict(kept["packing"])
    assert 0 < measured.seconds(measured.tokens) < 10
    assert kept["slots"] == measured.best(2)
    [note] = [line for line in notes(paths) if line.startswith("engine.slots=auto, up to 2: ")]
    assert note.endswith(measured.in_words(kept["slots"]))
    pace = known_pace(home.pace, where)
    assert pace is not None
    assert pace.step == (measured.fixed_s, measured.token_s)


def test_what_was_promised_stands_beside_what_came(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    promised = Packing(1.0, 0.001, 500.0)
    monkeypatch.setattr(packing, "_measured", lambda *_: promised)
    paths, tracker = prepare(*AUTO), MemoryTracker()
    assert run(paths, tracker)["status"] == "finished"
    trials = view(home, paths.name).trials
    assert max(trial.took["pack_size_max"] for trial in trials) == 2
    metrics = tracker.runs[STUDY].metrics
    assert metrics["throughput/packing_gain_predicted"][-1][1] == pytest.approx(promised.speedup(2))
    assert metrics["throughput/packing_gain"][-1][1] > 1  # no step took as long as that
    [kept] = view(home, paths.name).attributes["packing"].values()
    assert (kept["slots"], kept["most"]) == (2, 2)
    assert kept["gain"] > 1

    monkeypatch.setattr(packing, "_measured", lambda *_: pytest.fail("it is known"))
    assert run(prepare(*AUTO, "search.trials=12"), tracker)["status"] == "finished"
    [kept] = view(home, paths.name).attributes["packing"].values()
    assert (kept["slots"], kept["most"]) == (3, 3)  # more trials leave room for more at a time


def test_where_several_do_not_fit_it_is_one(prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_measured", lambda *_: None)
    paths = prepare(*AUTO)
    assert run(paths, MemoryTracker())["status"] == "finished"
    assert any("one trial at a time, for a step of 2 did not fit" in line for line in notes(paths))
    paths = prepare(*AUTO, "search.trials=30", "budget.trials=1", "study.name=more")
    assert run(paths, MemoryTracker())["status"] == "finished"
    assert any(f"for a step of {packing.SEVERAL} did not fit" in line for line in notes(paths))
    assert {trial.took["pack_size_max"] for trial in view(home, paths.name).trials} == {1}


def test_a_stop_ends_the_measuring(prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    rehearse = Pack.rehearse
    monkeypatch.setattr(Pack, "rehearse", lambda pack, rows: (steps.append(len(pack.slots)), rehearse(pack, rows))[1])
    paths = prepare(*AUTO)
    assert run(paths, MemoryTracker(), lambda: len(steps) == 2)["status"] == "stopped"
    assert steps == [1, 1]
    assert "packing" not in view(home, paths.name).attributes
