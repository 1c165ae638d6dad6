"""Retention in whole studies: what is measured, who may not be the best, and what a study remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.engine.bucket import AdapterState
from sweeper.engine.pack import Pack
from sweeper.errors import ExportError
from sweeper.export.export import export
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import StudyView, view
from sweeper.tracking.tracker import BASELINE, MemoryTracker
from sweeper.worker.recorder import trial_key
from sweeper.worker.rerun import rerun
from sweeper.worker.session import Session
from tests.retention.conftest import choice_rows, lines, passage_rows
from tests.worker.conftest import Prepare
from tests.worker.test_session import StopAfter

# Learning rates of which one changes next to nothing, and the other learns the task at the price of the base.
MEEK, WILD = 2e-4, 5e-3
RATES = [
    "~search.space",
    f"+search.space={{learning_rate: [{MEEK}, {WILD}]}}",
    "sampler=grid",
    "pruner=none",
    "search.trials=2",
    "lora.rank=16",
]


@pytest.fixture
def suite(tmp_path: Path) -> list[str]:
    """Overrides that name a suite of a few items."""
    made = {"choices": choice_rows(), "passages": passage_rows()}
    for key, rows in made.items():
        (tmp_path / f"{key}.jsonl").write_text(lines(rows), encoding="utf-8")
    return [f"retention.{key}={tmp_path / key}.jsonl" for key in made]


def run(paths: StudyPaths, tracker: MemoryTracker | None = None) -> dict[str, Any]:
    return Session(paths, tracker or MemoryTracker(), lambda: False).run()


def by_rate(seen: StudyView) -> dict[float, Any]:
    return {trial.params["learning_rate"]: trial for trial in seen.trials}


def test_the_best_score_is_not_the_best_where_it_wrecks_the_base(
    prepare: Prepare, home: Home, suite: list[str], tmp_path: Path
) -> None:
    longer = ["train.examples=288", "evaluation.rows=36", "retention.max_rise=0.25", "retention.stop_wrecked=false"]
    paths, tracker = prepare(*RATES, *suite, *longer), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    meek, wild = (by_rate(seen)[rate] for rate in (MEEK, WILD))
    assert (wild.state, meek.state) == ("COMPLETE", "COMPLETE")
    assert wild.value > meek.value  # by its score it would win
    assert wild.constraints["retention"] > 0 >= meek.constraints["retention"]
    assert seen.best is not None
    assert seen.best.number == meek.number
    assert seen.attributes["test"]["trial"] == meek.number
    assert not paths.adapter(wild.number).is_dir()
    with pytest.raises(ExportError, match=f"the adapter of trial {wild.number} must still be there"):
        export(home, "demo", tmp_path / "out", wild.number, force=False)
    # What both have lost is in the runs, and the base's own is beside them.
    found = {trial.number: tracker.runs[trial_key(trial.number)].metrics for trial in (meek, wild)}
    for trial in (meek, wild):
        logged = {
            name: [value for _, value in found[trial.number][f"retention/{name}"]] for name in ("drop", "perplexity")
        }
        assert logged["drop"] == [point["retention/drop"] for point in trial.curve]
        base_perplexity = tracker.runs[BASELINE].metrics["retention/perplexity"][0][1]
        assert logged["drop"] == pytest.approx([1 - base_perplexity / value for value in logged["perplexity"]])
        assert len(found[trial.number]["retention/accuracy"]) == len(trial.curve)
    assert "retention/full_drop" in found[meek.number]
    assert seen.attributes["retention"]["constrains"] == "perplexity"  # this base is no better than chance


def test_a_trial_that_has_wrecked_the_base_is_stopped_and_found_again(
    prepare: Prepare, home: Home, suite: list[str]
) -> None:
    paths = prepare(*suite, "search.trials=1", "search.enqueue=[{learning_rate: 3e-2, rank: 32}]", "evaluation.count=4")
    tracker = MemoryTracker()
    run(paths, tracker)
    [wild] = view(home, "demo").trials
    assert (wild.state, wild.reason) == ("PRUNED", "wrecked")
    assert 0 < len(wild.evaluations) < 4
    assert wild.constraints["retention"] > 0
    assert tracker.runs[trial_key(wild.number)].tags["sweeper.reason"] == "wrecked"
    again = rerun(home, "demo", wild.number, is_alone=False, announce=lambda _: None)
    assert again.is_same


def test_an_interrupted_study_keeps_the_bases_answers(prepare: Prepare, home: Home, suite: list[str]) -> None:
    paths, tracker = prepare("search.trials=1", *suite), MemoryTracker()
    assert Session(paths, tracker, StopAfter(4)).run() == {"status": "stopped"}
    before, kept = view(home, "demo").attributes["retention"], paths.retention.read_text()
    rows = [json.loads(line) for line in kept.splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in (*choice_rows(), *passage_rows())]
    assert run(paths, tracker) == {"status": "finished"}
    assert view(home, "demo").attributes["retention"] == before
    assert paths.retention.read_text() == kept
    # With other items the study cannot go on.
    [choices, _] = [Path(override.partition("=")[2]) for override in suite]
    choices.write_text(lines(choice_rows()[:-1]), encoding="utf-8")
    outcome = run(prepare("search.trials=2", *suite), tracker)
    assert outcome["kind"] == "DataError"
    assert "a study keeps the items that it was begun with" in outcome["message"]


def test_a_finalist_that_fails_in_full_is_excluded_and_the_next_moves_up(
    prepare: Prepare, home: Home, suite: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = prepare("search.trials=3", *suite, "pruner=none", "retention.stop_wrecked=false")
    admit = Pack.admit
    finished: list[int] = []

    def damaged(pack: Pack, slot: Any, state: AdapterState) -> None:
        """What is read back of the best trial's adapter for the whole suite is not what evaluations saw."""
        if slot.is_finished is False and slot.step == 0 and slot.number in finished:
            state.tensors["weight"] = {name: 40 * tensor for name, tensor in state.tensors["weight"].items()}
        admit(pack, slot, state)

    session = Session(paths, MemoryTracker(), lambda: False)
    choose = session.teller.finish

    def finish(bench: Any) -> None:
        best = view(home, "demo").best
        assert best is not None
        finished.append(best.number)
        choose(bench)

    monkeypatch.setattr(Pack, "admit", damaged)
    monkeypatch.setattr(session.teller, "finish", finish)
    assert session.run() == {"status": "finished"}
    attributes = view(home, "demo").attributes
    [first] = finished
    assert set(attributes["excluded"]) >= {str(first)}
    assert attributes["excluded"][str(first)].startswith("retention in full: drop ")
    assert attributes["finalists"][str(first)]["excess"] > 0
    assert attributes["test"]["trial"] != first
    assert attributes["finalists"][str(attributes["test"]["trial"])]["excess"] <= 0
