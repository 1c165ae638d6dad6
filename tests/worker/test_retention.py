"""Retention in whole studies: what is measured, who may not be the best, and what a study remembers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config import check
from sweeper.engine.bucket import AdapterState
from sweeper.engine.pack import Pack
from sweeper.errors import ExportError
from sweeper.exporting.export import Wanted, export
from sweeper.launching.tables import study_json
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import StudyView, view
from sweeper.tracking.tracker import BASELINE
from sweeper.worker.recorder import trial_key
from sweeper.worker.rerun import rerun
from sweeper.worker.session import Session
from sweeper.worker.teller import Teller
from tests.memory_tracker import MemoryTracker
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
        export(home, "demo", tmp_path / "out", Wanted(number=wild.number), print)
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
    assert wild.detail.startswith("a drop of 0.")
    assert tracker.runs[trial_key(wild.number)].tags["sweeper.reason"] == "wrecked"
    again = rerun(home, "demo", wild.number, is_alone=False, announce=lambda _: None)
    assert again.is_same


def test_every_scoring_of_items_counts_for_their_pace(prepare: Prepare, home: Home, suite: list[str]) -> None:
    run(prepare(*suite, "search.trials=1", "retention.stop_wrecked=false"))
    seen = view(home, "demo")
    [trial], retention = seen.trials, seen.attributes["retention"]
    whole, sample = (kept["questions"] + kept["passages"] for kept in (retention, retention["sample"]))
    in_full = any(name.startswith("retention/full_") for name in trial.metrics)
    # The base in full, the sample at each evaluation, and the trial in full where it kept enough.
    items = seen.attributes["pace"]["items"]
    assert items["x"] == whole + sample * len(trial.curve) + whole * in_full
    assert items["count"] == 1 + len(trial.curve) + in_full
    # Where the base's answers are not, as on another machine, it is scored again.
    home.study("demo").retention.unlink()
    run(prepare(*suite, "search.trials=2", "retention.stop_wrecked=false"))
    seen = view(home, "demo")
    points = sum(len(trial.curve) for trial in seen.trials)
    in_full = sum(any(name.startswith("retention/full_") for name in trial.metrics) for trial in seen.trials)
    assert seen.attributes["pace"]["items"]["count"] == 2 + points + in_full


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


def test_the_best_so_far_are_held_to_the_whole_suite_before_they_are_told(
    prepare: Prepare, home: Home, suite: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the whole suite finds what the sample did not, the trial is never the best, and the next ones may be."""
    paths = prepare("search.trials=4", *suite, "pruner=none", "retention.stop_wrecked=false", "store.keep_adapters=1")
    admit, told = Pack.admit, Teller.complete
    damages = [1]  # of the first that is measured alone

    def damaged(pack: Pack, slot: Any, state: AdapterState) -> None:
        if slot.number == -1 and damages:
            damages.pop()
            wrecked = {name: 40 * tensor for name, tensor in state.tensors["weight"].items()}
            state = replace(state, tensors={**state.tensors, "weight": wrecked})
        admit(pack, slot, state)

    in_full: dict[int, dict[str, float]] = {}

    def complete(teller: Teller, bench: Any, slot: Any, found: dict[str, float]) -> None:
        in_full[slot.number] = found
        told(teller, bench, slot, found)

    monkeypatch.setattr(Pack, "admit", damaged)
    monkeypatch.setattr(Teller, "complete", complete)
    tracker = MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    measured = {number for number, found in in_full.items() if found}
    [violating] = [t.number for t in seen.trials if t.number in measured and t.constraints["retention"] > 0]
    assert seen.best is not None
    assert seen.best.number in measured - {violating}
    for trial in seen.trials:
        full = {name: value for name, value in trial.metrics.items() if name.startswith("retention/full_")}
        assert bool(full) == (trial.number in measured)
        assert full.items() <= {k: v[-1][1] for k, v in tracker.runs[trial_key(trial.number)].metrics.items()}.items()
    assert set(study_json(seen, check.load(paths))["retention"]["in_full"]) == measured
    # Whoever is among the best has been measured, whatever came before it.
    assert {trial.number for trial in seen.finalists(2)} <= measured
