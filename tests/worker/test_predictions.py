"""Predictions are kept with the trials that made them, and what is kept gives the scores that were told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.config import check
from sweeper.data import rows
from sweeper.mistakes import kept
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import view
from sweeper.tracking.tracker import BASELINE
from sweeper.worker.recorder import trial_key
from sweeper.worker.session import Session
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare
from tests.worker.test_session import StopAfter


def run(paths: StudyPaths, tracker: MemoryTracker, stop: Callable[[], bool] = lambda: False) -> str:
    return str(Session(paths, tracker, stop).run()["status"])


def accuracy(paths: StudyPaths, number: int | None, split: str = "validation") -> float:
    found = kept.read(paths.predictions(number, split))
    return sum(one.is_correct for one in found) / len(found)


def test_what_is_kept_gives_the_scores(prepare: Prepare, home: Home) -> None:
    # A rate that unlearns, so that the best evaluation is not always the last; and a configuration that comes again.
    again = {"rank": 8, "alpha_ratio": 1.0, "learning_rate": 0.005}
    starts = str([again, again]).replace("'", "")
    paths = prepare("search.trials=3", "evaluation.count=4", "train.examples=96", "pruner=none", "engine.slots=1",
                    f"search.enqueue={starts}", "data.long=cut_text_tail", "prompt.max_tokens=60")  # fmt: skip
    tracker = MemoryTracker()
    assert run(paths, tracker, StopAfter(9)) == "stopped"
    assert run(paths, tracker) == "finished"
    seen = view(home, "demo")
    assert [trial.same_as for trial in seen.trials] == [None, 0, None]
    for trial in seen.trials:
        assert paths.predictions(trial.number).is_file() is (trial.same_as is None)
        if trial.same_as is None:
            assert accuracy(paths, trial.number) == pytest.approx(trial.value)
    assert accuracy(paths, None) == pytest.approx(seen.attributes["baseline"]["accuracy"])
    assert seen.best is not None
    test = seen.attributes["test"]
    assert accuracy(paths, seen.best.number, "test") == pytest.approx(test["winner"]["accuracy"])
    assert accuracy(paths, None, "test") == pytest.approx(test["base"]["accuracy"])

    # Every row is found again by its hash, though most were cut; and the file has no text of it.
    there = {row.sha256: row for row in rows.of(check.load(paths)).validation}
    text = paths.predictions(0).read_text()
    for one in kept.read(paths.predictions(0)):
        row = there[one.sha256]
        assert (one.row, one.truth) == (row.place, row.label)
        assert row.text not in text
        assert one.confidence is not None
        assert 0 < one.confidence <= 1
        assert 0 < one.tokens < 60
    assert "wrong_rows" not in str([run.files for run in tracker.runs.values()])


def test_their_text_is_tracked_where_that_is_asked_for(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("search.trials=1", "tracking.log_text=true"), MemoryTracker()
    assert run(paths, tracker) == "finished"
    names = {"wrong_rows-validation.csv", "wrong_rows-test.csv"}
    for number, key in ((0, trial_key(0)), (None, BASELINE)):
        assert names <= set(tracker.runs[key].files[""])
        missed = [one for one in kept.read(paths.predictions(number)) if not one.is_correct]
        there = {row.sha256: row.text for row in rows.of(check.load(paths)).validation}
        table = paths.wrong_rows(number).read_text()
        assert missed
        assert all(there[one.sha256] in table for one in missed)
