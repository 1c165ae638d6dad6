"""A study that searches how much general text its trials read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.errors import DataError
from sweeper.paths import Home
from sweeper.search.views import view
from sweeper.worker.recorder import trial_key
from sweeper.worker.rerun import rerun
from sweeper.worker.session import Session
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare


def test_replay_is_searched_and_a_trial_comes_out_the_same_again(prepare: Prepare, home: Home, tmp_path: Path) -> None:
    file = tmp_path / "general.jsonl"
    file.write_text("".join(json.dumps({"text": f"It rained on day {n} of the month."}) + "\n" for n in range(9)))
    paths = prepare(
        *("search.trials=2", "pruner=none", "sampler=grid", f"train.replay_text={file}"),
        *("+search.space.replay=[0.0,0.5]", "~search.space.rank", "~search.space.alpha_ratio"),
        *("~search.space.learning_rate", "memory.rehearse=true"),
    )
    tracker = MemoryTracker()
    Session(paths, tracker, lambda: False).run()
    trials = {trial.params["replay"]: trial for trial in view(home, "demo").trials}
    assert [trial.state for trial in trials.values()] == ["COMPLETE"] * 2
    assert [trial.examples_seen for trial in trials.values()] == [32, 32]  # of the task
    runs = {share: tracker.runs[trial_key(trial.number)].metrics for share, trial in trials.items()}
    read = {share: dict(metrics["train/supervised_tokens"])[32] for share, metrics in runs.items()}
    assert read[0.5] > 2 * read[0.0]  # as many passages as rows, and all of each is trained on
    assert runs[0.5]["train/loss"] != runs[0.0]["train/loss"]
    again = rerun(home, "demo", trials[0.5].number, is_alone=False, announce=lambda _: None)
    assert again.again == again.recorded
    file.write_text(file.read_text().replace("rained", "snowed"))
    with pytest.raises(DataError, match=r"train\.replay_text: a study keeps the passages that it was begun with"):
        rerun(home, "demo", trials[0.5].number, is_alone=False, announce=lambda _: None)
