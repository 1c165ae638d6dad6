"""Sessions of one study under other live settings, other libraries and other budgets than its first."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from sweeper import versions
from sweeper.engine import checkpoint
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import view
from sweeper.tracking.tracker import STUDY
from sweeper.units import GIB
from sweeper.worker.recorder import trial_key
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare
from tests.worker.test_session import StopAfter, run

# One smallest peak for all trials, whatever else they have.
ONE_RANK = ["memory.backend=tensors", "search.space.rank=[8]"]


def notes(paths: StudyPaths) -> list[str]:
    events = [json.loads(line) for line in paths.events.read_text().splitlines()]
    return [event["message"] for event in events if event["event"] == "note"]


def interrupt(paths: StudyPaths, tracker: MemoryTracker) -> None:
    """Stops a study with two trials in flight."""
    assert run(paths, tracker, StopAfter(7)) == {"status": "stopped"}
    assert view(paths.home, paths.name).counts()["WAITING"] == 2


def test_what_launches_changed_is_on_the_studys_run(prepare: Prepare) -> None:
    paths, tracker = prepare("search.trials=1"), MemoryTracker()
    entries = [
        {"time": "2030-01-01 10:00:00", "trials": 3, "changes": [{"key": "search.trials", "was": 3, "now": 1}]},
        {"time": "2030-01-02 10:00:00", "trials": 4, "changes": [], "versions": ["torch 1 → 2"], "defaults": ["a.b"]},
    ]
    paths.changes.write_text(yaml.safe_dump(entries, allow_unicode=True))
    assert run(paths, tracker) == {"status": "finished"}
    study = tracker.runs[STUDY]
    assert study.tags["sweeper.changes"].splitlines() == [
        "2030-01-01 10:00:00, after 3 trials: search.trials 3 → 1",
        "2030-01-02 10:00:00, after 4 trials: torch 1 → 2; a.b had no value before",
    ]
    costs = ["cost.json", "cost.csv", "cost.png"]  # of each session
    assert [name for name in study.files[""] if name not in costs] == ["config.yaml", "changes.yaml"]


def test_trials_are_tagged_with_versions_and_with_what_changed(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"sweeper": "0.1.0", "torch": "2.0"}
    monkeypatch.setattr(versions, "installed", lambda: first)
    paths, tracker = prepare("search.trials=1"), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    monkeypatch.setattr(versions, "installed", lambda: {**first, "torch": "2.1"})
    assert run(prepare("search.trials=2"), tracker) == {"status": "finished"}
    assert view(home, "demo").attributes["versions"] == first
    tags = [
        {name: value for name, value in tracker.runs[trial_key(number)].tags.items() if "versions" in name}
        for number in (0, 1)
    ]
    assert tags == [
        {"sweeper.versions": "sweeper 0.1.0, torch 2.0"},
        {"sweeper.versions": "sweeper 0.1.0, torch 2.1", "sweeper.versions_changed": "torch 2.0 → 2.1"},
    ]
    assert tracker.runs[STUDY].tags["sweeper.versions"] == "sweeper 0.1.0, torch 2.0"


def test_moments_may_wait_elsewhere_from_a_checkpoint_on(prepare: Prepare, home: Home) -> None:
    """`optimizer.state` may go from device to host because that changes nothing."""
    assert run(prepare("study.name=whole", "train.examples=64"), MemoryTracker()) == {"status": "finished"}
    paths, tracker = prepare("study.name=parts", "train.examples=64"), MemoryTracker()
    interrupt(paths, tracker)
    assert checkpoint.load(paths.checkpoint(0))[0].step > 0
    prepare("study.name=parts", "train.examples=64", "optimizer.state=host", "engine.gradient_checkpointing=true")
    assert run(paths, tracker) == {"status": "finished"}

    def results(name: str) -> list[Any]:
        return [(t.number, t.state, t.params, t.evaluations) for t in view(home, name).trials[:2]]

    assert results("parts") == results("whole")


@pytest.mark.parametrize("later_gib", [2.0, 8.0])
def test_another_card_leaves_the_budget_as_it_was(prepare: Prepare, home: Home, later_gib: float) -> None:
    """Where everything fits into both, trials go on, and what is told of them stays comparable."""
    tracker = MemoryTracker()
    paths = prepare(*ONE_RANK, "gpu.memory_gib=4", "search.trials=1")
    assert run(paths, tracker) == {"status": "finished"}
    prepare(*ONE_RANK, f"gpu.memory_gib={later_gib}", "search.trials=2")
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert seen.attributes["budget_bytes"] == 4 * GIB
    assert seen.attributes["memory"]["budget_gib"] == min(4.0, later_gib)  # never more than it was begun with
    first, second = seen.trials
    assert first.params["rank"] == second.params["rank"]
    assert first.constraints == second.constraints
    [note] = [line for line in notes(paths) if "begun with" in line]
    assert note.startswith("the study keeps the memory budget that it was begun with, 4 GiB")
    assert f"{later_gib:g} GiB" in note


def test_a_card_on_which_less_would_fit_is_refused(prepare: Prepare, home: Home) -> None:
    both = ["memory.backend=tensors", "search.trials=1", "search.space.rank=[8,112,128]"]
    paths, tracker = prepare(*both, "gpu.memory_gib=1"), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    before = view(home, "demo").trials
    prepare(*both, "gpu.memory_gib=0.018", "search.trials=2")
    outcome = run(paths, tracker)
    assert outcome["kind"] == "OutOfRoomError"
    assert outcome["message"].startswith(
        "a study keeps the memory budget that it was begun with, 1 GiB, but here are 0.018 GiB for it, and trials of "
        "rank 112 to 128 would fit into the one and not into the other"
    )
    assert view(home, "demo").trials == before


def test_a_launch_that_measured_nothing_settles_no_budget(prepare: Prepare, home: Home) -> None:
    paths = prepare(*ONE_RANK, "memory.budget_gib=0.001")
    assert run(paths, MemoryTracker())["kind"] == "OutOfRoomError"
    prepare(*ONE_RANK, "memory.budget_gib=1")
    assert run(paths, MemoryTracker()) == {"status": "finished"}
    assert view(home, "demo").attributes["budget_bytes"] == GIB
