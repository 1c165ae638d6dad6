"""The best of a search, trained again on fresh seeds and judged on rows that the search did not score."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sweeper.config import check
from sweeper.data.row import Row
from sweeper.engine.bucket import AdapterState
from sweeper.mistakes import kept
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import examples_of, view
from sweeper.tasks.classification import Classification
from sweeper.tasks.resampled import Resampler
from sweeper.tracking.tracker import STUDY, RunState
from sweeper.trial import RunKind
from sweeper.worker import confirmation
from sweeper.worker.confirmation import Confirmation, _Confirmed, fresh_seeds
from sweeper.worker.recorder import trial_key
from sweeper.worker.side import SideResult
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare
from tests.worker.test_session import run

ON = (
    "confirmation.top=2",
    "confirmation.share=0.3",
    "confirmation.seeds=2",
    "pruner=none",
    "evaluation.count=1",
    "train.examples=16",
)


class StopAtKind:
    """Asks to stop after so many questions behind the first side run."""

    def __init__(self, paths: StudyPaths, questions: int) -> None:
        self._paths, self._left = paths, questions

    def __call__(self) -> bool:
        if not self._paths.events.is_file() or '"side_started"' not in self._paths.events.read_text():
            return False
        self._left -= 1
        return self._left < 0


def test_the_winner_is_confirmed_before_the_test_split_is_scored(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare(*ON), MemoryTracker()
    assert run(paths, tracker, StopAtKind(paths, 3)) == {"status": "stopped"}
    assert "test" not in view(home, "demo").attributes
    assert tracker.states()[STUDY] is RunState.KILLED
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert len(seen.trials) == 3  # none of it is a trial
    found, test = seen.attributes["confirmation"], seen.attributes["test"]
    assert found["finalists"] == [trial.number for trial in seen.ranked[:2]]
    assert {one["trial"] for one in found["candidates"]} == set(found["finalists"])
    assert seen.best is not None
    assert seen.runner_up is not None
    assert (seen.best.number, test["trial"]) == (found["chosen"], found["chosen"])
    assert {seen.best.number, test["runner_up"]["trial"]} == set(found["finalists"])
    assert test["optimism"] == pytest.approx((seen.best.value or 0) - test["winner"]["accuracy"])
    wrong = {number: kept.read(paths.predictions(number, "test")) for number in (*found["finalists"], None)}
    assert sum(one.is_correct for one in wrong[seen.best.number]) / 36 == pytest.approx(test["winner"]["accuracy"])
    difference = sum(one.is_correct for one in wrong[seen.best.number]) - sum(one.is_correct for one in wrong[None])
    assert test["against_base"]["difference"] == pytest.approx(difference / 36)

    # 24 of the 36 validation rows are the search's; the others are for this, and each run scored those alone.
    searched = {one.row for one in kept.read(paths.predictions(0))}
    confirmed = {one.row for one in kept.read(next(paths.root.glob("side/*/predictions.jsonl")))}
    assert (len(searched), len(confirmed), searched & confirmed, found["rows"]) == (24, 12, set(), 12)
    runs = {key: run for key, run in tracker.runs.items() if key.kind is RunKind.CONFIRMATION}
    assert sorted(run.name for run in runs.values()) == [
        f"confirm t{number:02d} seed {seed}" for number in sorted(found["finalists"]) for seed in (1, 2)
    ]
    assert {run.state for run in runs.values()} == {RunState.FINISHED}
    assert {run.params["seed"] for run in runs.values()} == set(found["seeds"]) == set(fresh_seeds(0, 2))
    best = next(one for one in found["candidates"] if one["trial"] == found["chosen"])
    metrics = tracker.runs[STUDY].metrics
    assert metrics["confirmation/accuracy_mean"] == [(examples_of(seen.trials), best["mean"])]
    assert tracker.runs[trial_key(found["chosen"])].metrics["confirmation/accuracy_original"]
    assert best["values"] == [
        run.metrics["confirmation/accuracy"][-1][1]
        for key, run in sorted(runs.items(), key=lambda item: str(item[1].name))
        if run.tags["sweeper.confirms"] == str(found["chosen"])
    ]


def test_more_trials_are_confirmed_again_only_where_others_are_the_best(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, tracker = prepare(*ON, "search.trials=2", "confirmation.seeds=1"), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    before = view(home, "demo").attributes["confirmation"]
    ticks = paths.events.read_text().count('"side_started"')
    assert ticks == 2
    assert run(paths, tracker) == {"status": "finished"}
    assert paths.events.read_text().count('"side_started"') == 2
    paths = prepare(*ON, "search.trials=4", "confirmation.seeds=1")
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    new = {trial.number for trial in seen.ranked[:2]} - set(before["finalists"])
    assert paths.events.read_text().count('"side_started"') == 2 + len(new)
    assert seen.attributes["confirmation"]["finalists"] == [trial.number for trial in seen.ranked[:2]]


def test_a_study_from_before_goes_on_with_its_rows(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("search.trials=1", "evaluation.rows=null"), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}  # as if there had been no confirmation yet
    assert view(home, "demo").attributes["confirmation_rows"] == 0
    paths = prepare("search.trials=2", "evaluation.rows=null", "confirmation.top=3")
    assert run(paths, tracker) == {"status": "finished"}
    assert len(kept.read(paths.predictions(1))) == 36
    assert "confirmation" not in view(home, "demo").attributes
    other = prepare("study.name=other", "search.trials=1", "evaluation.rows=null", "confirmation.top=1",
                    "confirmation.seeds=1")  # fmt: skip
    assert run(other, MemoryTracker()) == {"status": "finished"}
    assert len(kept.read(other.predictions(0))) == 22  # 40 % of 36 are held back
    assert view(home, "other").attributes["confirmation"]["rows"] == 14


@pytest.mark.parametrize(("wrecked", "chosen"), [((), 0), ((0,), 1), ((0, 1), 0)])
def test_a_configuration_that_wrecks_the_base_on_a_fresh_seed_is_chosen_only_without_another(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch, wrecked: tuple[int, ...], chosen: int
) -> None:
    """Of two finalists the first is the better one, by both of its seeds."""
    config = check.load(prepare("search.trials=2", "confirmation.top=2"))
    adapters = AdapterState(8, 1.0)
    monkeypatch.setattr(confirmation.adapter, "read", lambda *_: adapters)
    rows = [Row("text", "a", f"x:{number}", {}) for number in range(40)]
    retention = SimpleNamespace(sampled=SimpleNamespace(is_wrecked=lambda values: values["retention/drop"] > 0.5))
    bench = SimpleNamespace(
        retention=retention,
        score_adapter=lambda *_: None,
        resampler=lambda split, _: Resampler(Classification({"a": [1], "b": [2]}), "accuracy", split.rows, 0, True),
    )
    split = SimpleNamespace(rows=rows)
    paths = home.study("demo")
    spending = SimpleNamespace(book=lambda *_: None, scored=lambda *_: None)
    made = Confirmation(paths, config, SimpleNamespace(), SimpleNamespace(), spending)  # type: ignore[arg-type]
    found = []
    for number in (0, 1):
        drop = {"retention/drop": 0.9 if number in wrecked else 0.1}
        texts = ["a"] * (40 - 30 * number) + ["b"] * 30 * number
        results = [SideResult(seed, [], drop, {}, texts, 1.0, 100, None) for seed in (1, 2)]
        trial = SimpleNamespace(number=number, params={"rank": 8}, solo_s=None)
        found.append(made._confirmed(bench, trial, results, split, lambda work: work()))  # type: ignore[arg-type]
    choice = made._choose(bench, split, found)  # type: ignore[arg-type]
    # Where both wreck it there is nothing to choose by but the search itself.
    assert (choice.chosen if choice is not None else 0) == chosen
    assert (choice is None) == (len(wrecked) == 2)


@pytest.mark.parametrize(
    ("alone_s", "parameters", "chosen"),
    [
        ((20.0, 12.0, 12.1), (100, 400, 200), 2),  # the last two are as long, and one of them is smaller
        ((20.0, 12.0, 12.1), (100, 200, 400), 1),
        ((20.0, 12.0, 9.0), (100, 200, 400), 2),
        ((20.0, None, 9.0), (100, 200, 400), 0),  # begun before that was measured
    ],
)
def test_of_tied_ones_the_one_that_takes_the_least_alone_is_chosen(
    prepare: Prepare, alone_s: tuple[float | None, ...], parameters: tuple[int, ...], chosen: int
) -> None:
    paths = prepare("confirmation.top=3")
    none = SimpleNamespace()
    made = Confirmation(paths, check.load(paths), none, none, none)  # type: ignore[arg-type]
    rows = [Row("text", "a", f"x:{number}", {}) for number in range(40)]
    bench = SimpleNamespace(
        resampler=lambda split, _: Resampler(Classification({"a": [1], "b": [2]}), "accuracy", split.rows, 0, True)
    )
    found = []
    for number, (seconds, size) in enumerate(zip(alone_s, parameters, strict=True)):
        results = [SideResult(seed, [], {}, {}, ["a"] * 30 + ["b"] * 10, 1.0, 100, None) for seed in (1, 2)]
        trial = SimpleNamespace(number=number, solo_s=seconds)
        found.append(_Confirmed(trial, results, SimpleNamespace(), size, []))  # type: ignore[arg-type]
    choice = made._choose(bench, SimpleNamespace(rows=rows), found)  # type: ignore[arg-type]
    assert choice is not None
    assert (choice.chosen, len(choice.tied)) == (chosen, 2)
