"""A study with written answers from start to end: trained, scored, shown, run again, exported, answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from sweeper.config import check
from sweeper.errors import DataError
from sweeper.exporting.export import Wanted, export
from sweeper.exporting.predict import Predictor
from sweeper.exporting.rows import of_lines
from sweeper.launching.tables import study_json, study_table
from sweeper.paths import Home
from sweeper.search.views import view
from sweeper.tracking.tracker import BASELINE, STUDY
from sweeper.worker.recorder import trial_key
from sweeper.worker.rerun import rerun
from sweeper.worker.session import Session
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare

METRICS = {"exact_match", "token_f1", "exact_match_se", "token_f1_se"}
SIZE = ("task=generation", "task.max_new_tokens=6", "search.trials=2", "evaluation.rows=12", "search.space.rank=[4,8]")


def test_a_study_of_written_answers(prepare: Prepare, home: Home, tmp_path: Path) -> None:
    paths = prepare(*SIZE, "data.columns.prompt=text", "data.columns.answer=label")
    tracker = MemoryTracker()
    assert Session(paths, tracker, lambda: False).run() == {"status": "finished"}
    seen, config = view(home, "demo"), check.load(paths)
    assert seen.best is not None
    for trial in seen.trials:
        assert set(trial.metrics) == METRICS
        assert set(tracker.runs[trial_key(trial.number)].metrics) >= METRICS
        assert trial.value == max(point["token_f1"] for point in trial.curve)
    assert set(tracker.runs[BASELINE].metrics) >= {*METRICS, "test/token_f1"}
    assert "test/exact_match" in tracker.runs[STUDY].metrics
    assert seen.attributes["labels"] == []

    console = Console(record=True, width=140)
    console.print(study_table(seen, config))
    shown = console.export_text()
    assert "Test token_f1 over 36 rows: winner" in shown
    assert "most common answer" in shown
    assert study_json(seen, config)["test"]["majority"]["exact_match"] > 0

    again = rerun(home, "demo", seen.best.number, is_alone=False, announce=lambda _: None)
    assert (again.metric, again.largest_difference) == ("token_f1", 0.0)

    manifest = export(home, "demo", tmp_path / "out", Wanted(force=True), print)  # it learns nothing to speak of
    assert manifest["task"] == {"name": "generation", "max_new_tokens": 6}
    predictor = Predictor.load(tmp_path / "out", home)
    lines = [json.dumps({"text": f"where is order {n}", "other": n}).encode() for n in range(3)]
    rows = [row for _, row in of_lines(lines)()]
    answers = predictor.predict(rows)
    assert len(answers) == 3
    assert answers == [predictor.predict([row])[0] for row in rows]
    with pytest.raises(DataError, match=r"row 2: `text` must be text, but got an empty text"):
        predictor.predict([rows[0], {"text": " "}])


def test_a_study_of_comments_is_scored_from_the_first_evaluation_on(prepare: Prepare, home: Home) -> None:
    paths = prepare(
        *SIZE, "task=comments", "task.max_new_tokens=6", "data.columns.prompt=text", "data.columns.answer=label"
    )
    tracker = MemoryTracker()
    assert Session(paths, tracker, lambda: False).run() == {"status": "finished"}
    names = {name + end for name in ("bleu", "chrf", "rouge_l") for end in ("", "_se")}
    seen = view(home, "demo")
    for trial in seen.trials:
        assert [names <= set(point) for point in trial.curve] == [True] * 2
        assert trial.value == max(point["rouge_l"] for point in trial.curve)
    assert set(seen.attributes["baseline"]) == names
    assert set(tracker.runs[BASELINE].metrics) >= {*names, *(f"test/{name}" for name in names)}
    assert all(set(seen.attributes["test"][who]) == names for who in ("winner", "base", "majority"))
    console = Console(record=True, width=140)
    console.print(study_table(seen, check.load(paths)))
    assert "Test rouge_l over 36 rows: winner" in console.export_text()


def test_rows_that_were_cut_are_counted_and_cut_again_in_use(prepare: Prepare, home: Home, tmp_path: Path) -> None:
    paths = prepare("prompt.max_tokens=40", "data.long=cut_text_tail", "search.trials=1")
    assert Session(paths, MemoryTracker(), lambda: False).run() == {"status": "finished"}
    counts = study_json(view(home, "demo"), check.load(paths))["long_rows"]
    assert counts["train"]["rows"] == 96
    assert 0 < counts["train"]["cut"] < 96
    assert counts["train"]["dropped"] == 0
    notes = [json.loads(line).get("message", "") for line in paths.events.read_text().splitlines()]
    assert any(
        note.startswith(f"data.long=cut_text_tail: {counts['train']['cut']} of 96 rows of train") for note in notes
    )
    export(home, "demo", tmp_path / "out", Wanted(force=True), print)  # it learns nothing to speak of
    predictor = Predictor.load(tmp_path / "out", home)
    [same, [label]] = [predictor.predict([{"text": "where is it? " * n}]) for n in (50, 400)]
    assert same == [label]


def test_a_study_of_conversations_trains_on_every_turn_or_on_the_last(
    prepare: Prepare, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "conversations"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = []
        for number in range(24):
            turns = [("user", f"hello {number}"), ("assistant", "hi there"), ("user", "order?"), ("assistant", "sent")]
            lines.append(json.dumps({"chat": [{"role": role, "content": text} for role, text in turns]}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    tokens = {}
    for loss in ("all", "last"):
        name = f"of-{loss}"
        overrides = ("data.columns.messages=chat", f"data.loss={loss}", f"study.name={name}", f"data.path={folder}")
        tracker = MemoryTracker()
        paths = prepare(*SIZE, *overrides, "search.trials=1")
        assert Session(paths, tracker, lambda: False).run() == {"status": "finished"}
        tokens[loss] = tracker.runs[trial_key(0)].metrics["train/supervised_tokens"][-1][1]
    assert tokens["all"] > 1.5 * tokens["last"]
    export(home, "of-last", tmp_path / "out", Wanted(), print)
    predictor = Predictor.load(tmp_path / "out", home)
    conversation = [{"role": "user", "content": "hello"}]
    assert predictor.predict([{"chat": conversation}]) == predictor.predict([{"chat": "hello"}])
