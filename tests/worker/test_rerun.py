"""A trial of a packed study, run again: beside stand-ins, and alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from sweeper.engine.slot import Tick
from sweeper.errors import DataError, StoreError
from sweeper.paths import Home
from sweeper.search.views import view
from sweeper.trial import TrialParams
from sweeper.worker.rerun import Rerun, rerun
from sweeper.worker.session import Session
from sweeper.worker.workbench import Scored, Split, Workbench
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare

SPACE = (
    "+search.space.dropout=[0.0,0.2]",
    "+search.space.batch_size=[4,8]",
    "+search.space.target_modules=[attention,mlp]",
)


def again(home: Home, number: int, is_alone: bool = False) -> Rerun:
    return rerun(home, "demo", number, is_alone, announce=lambda _: None)


@pytest.mark.parametrize("is_alone", [False, True])
def test_each_trial_again_is_what_it_was_in_the_pack(prepare: Prepare, home: Home, is_alone: bool) -> None:
    paths = prepare("search.trials=4", "engine.slots=3", "store.keep_adapters=1", "pruner.startup_trials=1", *SPACE)
    Session(paths, MemoryTracker(), lambda: False).run()
    trials = view(home, "demo").trials
    for trial in trials:
        was_kept = paths.adapter(trial.number).is_dir()
        result = again(home, trial.number, is_alone)
        assert result.recorded == list(trial.evaluations)
        assert result.again == result.recorded
        assert result.is_same
        assert result.examples == [16, 32][: len(trial.evaluations)]
        assert (result.adapter is not None) == (trial.state == "COMPLETE" and not was_kept)
        assert paths.adapter(trial.number).is_dir() == (trial.state == "COMPLETE")
    assert sum(trial.state == "COMPLETE" for trial in trials) > 1  # or no adapter was brought back
    assert "largest difference in accuracy 0.0000 (one of 24 validation rows is 0.0417)" in again(home, 0).summary()


def test_a_trial_that_diverged_diverges_again(prepare: Prepare, home: Home) -> None:
    paths = prepare(
        "search.trials=1",
        "search.space.learning_rate={low:9.9,high:9.9,log:true}",
        "lora.alpha=1e30",
        "~search.space.alpha_ratio",
    )
    Session(paths, MemoryTracker(), lambda: False).run()
    [trial] = view(home, "demo").trials
    assert trial.reason == "diverged"
    result = again(home, 0)
    assert result.diverged_at_step is not None
    assert f"diverged at step {result.diverged_at_step}" in result.summary()
    assert result.is_same
    assert result.adapter is None


def test_a_trial_that_goes_another_way_is_said_and_brings_no_adapter(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = prepare("search.trials=2", "store.keep_adapters=1", "pruner=none", "train.examples=64")
    Session(paths, MemoryTracker(), lambda: False).run()
    [dropped] = [number for number in (0, 1) if not paths.adapter(number).is_dir()]
    score = Workbench.score

    def wrong(bench: Workbench, split: Split, slots: list[int]) -> list[Scored]:
        found = score(bench, split, slots)
        return [replace(one, scores=replace(one.scores, accuracy=one.scores.accuracy + 0.5)) for one in found]

    monkeypatch.setattr(Workbench, "score", wrong)
    result = again(home, dropped)
    assert not result.is_same
    assert result.adapter is None
    assert not paths.adapter(dropped).is_dir()
    assert "largest difference in accuracy 0.5000" in result.summary()
    assert f"trial {dropped} of demo is NOT the same again" in result.summary()

    monkeypatch.setattr(Tick, "is_finite", False)
    diverged = again(home, dropped)
    assert (diverged.diverged_at_step, diverged.largest_difference, diverged.is_same) == (1, None, False)
    assert "recorded 0." in diverged.summary()
    assert ", again none" in diverged.summary()
    assert "diverged at step 1, only again" in diverged.summary()
    assert "is NOT the same alone" in again(home, dropped, is_alone=True).summary()


def test_what_cannot_be_run_again(prepare: Prepare, home: Home, few_tickets: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in few_tickets.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    paths = prepare("search.trials=1", f"data.path={copy}")
    Session(paths, MemoryTracker(), lambda: False).run()
    with pytest.raises(StoreError, match="has trials 0 to 0, but not 7"):
        again(home, 7)
    with FileLock(paths.work_lock), pytest.raises(StoreError, match="no worker of the study may run meanwhile"):
        again(home, 0)
    rows = (copy / "train.jsonl").read_text().splitlines()
    (copy / "train.jsonl").write_text("\n".join(rows[:-1]))
    with pytest.raises(DataError, match="has changed"):
        again(home, 0)


def test_a_trial_in_flight_is_not_run_again(prepare: Prepare, home: Home) -> None:
    paths = prepare("search.trials=1")
    questions = iter([False] * 5)
    Session(paths, MemoryTracker(), lambda: next(questions, True)).run()
    with pytest.raises(StoreError, match="must have ended to be run again, but trial 0 is WAITING"):
        again(home, 0)


def test_a_trial_that_was_not_trained_is_not_run_again_and_one_that_repeats_another_is(
    prepare: Prepare, home: Home
) -> None:
    class RankFour:
        keys = ("vram",)

        def __call__(self, params: TrialParams) -> dict[str, float]:
            return {"vram": params.rank / 8 - 1}

    few = ("search.space.rank=[8,16]", "search.space.alpha_ratio=[1.0]", "~search.space.learning_rate")
    paths = prepare("search.trials=3", "engine.slots=1", *few)
    Session(paths, MemoryTracker(), lambda: False, RankFour()).run()
    trials = view(home, "demo").trials
    rejected = next(trial.number for trial in trials if trial.is_rejected)
    with pytest.raises(StoreError, match=rf"but trial {rejected} was not trained: vram is \+1 above its limit"):
        again(home, rejected)
    repeated = next(trial for trial in trials if trial.same_as is not None)
    assert again(home, repeated.number).again == list(trials[repeated.same_as or 0].evaluations)
