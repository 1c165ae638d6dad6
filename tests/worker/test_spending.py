"""What a session's seconds are booked as, and how a budget ends a search."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.config import check
from sweeper.config.schema import MOST_SEEDS
from sweeper.engine import checkpoint
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Tick
from sweeper.errors import ConfigError
from sweeper.launching import launcher
from sweeper.money.account import account
from sweeper.money.booking import Activity, Booking, Whose
from sweeper.money.ledger import Ledger
from sweeper.money.meter import Meter, now_us
from sweeper.money.pace import known_pace
from sweeper.money.price import Price
from sweeper.paths import Home, StudyPaths
from sweeper.search.asking import Asked
from sweeper.search.ended import ENDED, Ended
from sweeper.search.leases import Holder
from sweeper.search.storage import open_storage
from sweeper.search.views import StudyView, is_finished, view
from sweeper.tracking.tracker import STUDY, RunKey, RunState
from sweeper.trial import RunKind
from sweeper.worker import spending, trials, workbench
from sweeper.worker.session import Session
from sweeper.worker.spending import Spending
from sweeper.worker.workbench import Workbench
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare
from tests.worker.test_confirmation import ON
from tests.worker.test_session import StopAfter, assert_stores_agree, run

A_SECOND = "gpu.price_usd_per_hour=3600"  # is a dollar


def ledger_of(home: Home) -> Ledger:
    return Ledger(open_storage(home).engine)


def booked(home: Home, name: str = "demo") -> dict[tuple[RunKind, Activity], list[Booking]]:
    found = defaultdict(list)
    for one in ledger_of(home).bookings(name):
        found[one.whose.kind, one.activity].append(one)
    return found


def usd(home: Home, name: str = "demo") -> float:
    spent = account(ledger_of(home), view(home, name)).usd
    assert spent is not None
    return spent


def trained(seen: StudyView) -> list[int]:
    return [trial.number for trial in seen.trials if trial.counts and trial.examples_seen]


def test_every_second_of_a_session_is_booked_once_for_what_it_was(prepare: Prepare, home: Home) -> None:
    paths, tracker, wall_s = prepare(*ON, "engine.slots=2"), MemoryTracker(), 0.0
    for stop, status in ((StopAfter(6), "stopped"), (lambda: False, "finished")):
        launched_s = time.time()
        assert Session(paths, tracker, stop, launched_s=launched_s).run() == {"status": status}
        wall_s += time.time() - launched_s
    sessions, found = ledger_of(home).sessions("demo"), booked(home)
    assert [one.is_ended for one in sessions] == [True, True]
    assert sum(one.booked_us for one in sessions) == sum(one.heartbeat_us for one in sessions)
    assert sum(one.us for ones in found.values() for one in ones) == sum(one.booked_us for one in sessions)
    assert 0.9 * wall_s < sum(one.booked_us for one in sessions) / 1e6 <= wall_s

    seen = view(home, "demo")
    tokens = defaultdict(int)
    for one in found[RunKind.TRIAL, Activity.TRAIN]:
        tokens[one.whose.number] += one.units
    # Every token of every trial, those before the interruption once.
    assert {number: tokens[number] for number in trained(seen)} == {t.number: t.train_tokens for t in seen.trials}
    scored = {one.whose for one in found[RunKind.TRIAL, Activity.EVALUATE]}
    assert scored == {Whose(RunKind.TRIAL, number) for number in trained(seen)}
    assert found[RunKind.CONFIRMATION, Activity.TRAIN]
    assert found[RunKind.CONFIRMATION, Activity.EVALUATE]
    assert sum(one.units for one in found[RunKind.STUDY, Activity.TEST]) == 3 * 36
    assert found[RunKind.STUDY, Activity.LOAD]
    assert found[RunKind.STUDY, Activity.BASELINE]
    assert (RunKind.STUDY, Activity.LOST) not in found
    for trial in seen.trials:
        assert trial.solo_s is not None
        assert trial.solo_s > 0
    spent = [trial.spent_s for trial in seen.trials]
    assert spent == sorted(spent, key=lambda s: s or 0.0)


@pytest.mark.parametrize("is_steady", [True, False])
def test_a_dollar_budget_ends_a_search_within_the_cap_and_a_higher_one_goes_on(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch, is_steady: bool
) -> None:
    """By a clock that work alone moves, and by the real one, on which the same work may take longer the next time."""
    if is_steady:
        Steady().install(monkeypatch)
    few = ("search.trials=9", "engine.slots=2", A_SECOND, "train.examples=64", "pruner=none")
    whole = prepare("study.name=whole", *few)
    run(whole, MemoryTracker())
    parts = account(ledger_of(home), view(home, "whole"))
    of_trials = sum(line.seconds for line in parts.lines if line.whose.kind is RunKind.TRIAL)
    setup = parts.seconds - of_trials  # loading, baseline, test
    budget = setup + of_trials / 3

    paths, tracker = prepare("study.name=third", *few, f"budget.usd={budget}"), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "third")
    ended = seen.attributes[ENDED]
    assert ended["key"] == "budget.usd"
    assert f"budget.usd={budget:g}" in ended["message"]
    assert 1 <= len(trained(seen)) < 9
    # What began came to its end, and the best of it has been scored and can be exported.
    assert seen.best is not None
    assert paths.adapter(seen.best.number).is_dir()
    if is_steady:  # what was held back for it was enough
        assert seen.attributes["test"]["trial"] == seen.best.number
    assert usd(home, "third") <= budget + (Steady.MOST_S if is_steady else overrun(paths))
    assert is_finished(seen, check.load(paths))
    assert tracker.states()[STUDY] is RunState.FINISHED
    assert tracker.runs[STUDY].tags["sweeper.ended"] == ended["message"]
    assert_stores_agree(seen, tracker)

    more = prepare("study.name=third", *few, f"budget.usd={budget * 10}")
    assert not is_finished(view(home, "third"), check.load(more))
    assert run(more, tracker) == {"status": "finished"}
    seen = view(home, "third")
    assert len(trained(seen)) == 9
    assert seen.attributes[ENDED] is None
    assert_stores_agree(seen, tracker)


def test_what_another_worker_has_done_of_its_trials_is_not_reserved_as_well(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    Steady().install(monkeypatch)
    few = ("search.trials=2", "engine.slots=1", A_SECOND, "train.examples=64", "pruner=none")
    run(prepare("study.name=alone", *few), MemoryTracker())
    own_usd, ledger, others_s = usd(home, "alone"), ledger_of(home), 1000
    paths = prepare("study.name=demo", *few, f"budget.usd={others_s + 2 * own_usd}")
    elsewhere = replace(Holder.this_process(), host="another-machine")
    other = ledger.open("demo", "d", 0.0, Price.of(check.load(paths).gpu), elsewhere, others_s * 10**6)
    ledger.reserve(other, others_s * 10**6)
    run(paths, MemoryTracker())
    assert trained(view(home, "demo")) == [0, 1]


def test_a_trial_that_is_refused_is_not_reserved_for(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    Steady().install(monkeypatch)
    asked: list[tuple[bool, float]] = []
    reserve, refusal, reserved_us = Ledger.reserve, Spending._refusal, [0]

    def reserved(self: Ledger, session: int, until_us: int) -> None:
        reserved_us[:] = [until_us]
        reserve(self, session, until_us)

    def refused(self: Spending, *args: Any) -> Ended | None:
        found = refusal(self, *args)
        asked.append((found is not None, reserved_us[0] - self._meter.elapsed_us()))
        return found

    monkeypatch.setattr(Ledger, "reserve", reserved)
    monkeypatch.setattr(Spending, "_refusal", refused)
    few = ("engine.slots=1", A_SECOND, "train.examples=64", "pruner=none")
    run(prepare("study.name=one", *few, "search.trials=1"), MemoryTracker())
    run(prepare(*few, "search.trials=9", f"budget.usd={1.5 * usd(home, 'one')}"), MemoryTracker())
    assert 1 <= len(trained(view(home, "demo"))) < 9
    assert any(ahead_us > 0 for is_refused, ahead_us in asked if not is_refused)
    assert {ahead_us for is_refused, ahead_us in asked if is_refused} == {0}  # there is no other in flight


def test_the_storage_is_not_read_at_each_step_for_what_is_held_back(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "LOOK_S", 1e9)
    held: list[float] = []
    hold_back = Spending.hold_back
    monkeypatch.setattr(Spending, "hold_back", lambda own, seconds: (held.append(seconds), hold_back(own, seconds))[1])
    run(prepare("search.trials=2", "engine.slots=1", A_SECOND, "budget.usd=1000"), MemoryTracker())
    assert max(held) > 0
    assert len(held) <= 6  # around loading, before the first step, after each of two verdicts, and at the end


def test_a_configuration_that_is_too_dear_once_it_is_known_waits_for_more(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Spending.refusal

    def dear(self: Spending, asked: Asked | None, *rest: Any) -> Ended | None:
        if asked is not None and asked.number == 1:
            return Ended("budget.usd", "the second is too dear", {})
        return refusal(self, asked, *rest)

    tracker = MemoryTracker()
    with monkeypatch.context() as patched:
        patched.setattr(Spending, "refusal", dear)
        run(prepare("search.trials=2", "engine.slots=1", A_SECOND, "budget.usd=1000"), tracker)
    seen = view(home, "demo")
    assert [trial.state for trial in seen.trials] == ["COMPLETE", "WAITING"]
    assert seen.attributes[ENDED]["message"] == "the second is too dear"
    assert_stores_agree(seen, tracker)
    params = seen.trials[1].params
    assert run(prepare("search.trials=2", "engine.slots=1", A_SECOND, "budget.usd=2000"), tracker) == {
        "status": "finished"
    }
    seen = view(home, "demo")
    assert trained(seen) == [0, 1]
    assert seen.trials[1].params == params
    assert_stores_agree(seen, tracker)


def overrun(paths: StudyPaths) -> float:
    """The most seconds, each a dollar, from one thing that a session did to the next: a step, a scoring."""
    times = [json.loads(line)["time"] for line in paths.events.read_text().splitlines()]
    return max(after - before for before, after in pairwise(times))


def test_a_cap_that_is_reached_puts_the_trials_aside_with_their_progress(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("search.trials=3", "engine.slots=2", "train.examples=512", "evaluation.count=4", "pruner=none")
    clock = Clock()
    monkeypatch.setattr(spending, "Meter", clock.meter)
    monkeypatch.setattr(Spending, "refusal", lambda *_: None)  # as if all had been foretold to be cheap
    paths, tracker = prepare(*few, A_SECOND, "budget.usd=100"), MemoryTracker()
    clock.at_tick(tracker, 20, 1000.0)
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert seen.attributes[ENDED]["key"] == "budget.usd"
    assert seen.counts() == {"WAITING": 2}
    slot, _ = checkpoint.load(paths.checkpoint(0))
    assert slot.step == 20
    assert "test" not in seen.attributes
    assert_stores_agree(seen, tracker)

    paths = prepare(*few, A_SECOND, "budget.usd=100000")
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert len(trained(seen)) == 3
    assert {one.units for one in booked(home)[RunKind.TRIAL, Activity.TRAIN] if one.whose.number == 0}


class Clock:
    """The real clock, and leaps of it."""

    def __init__(self) -> None:
        self.leap_us = 0

    def meter(self, *args: Any, **kwargs: Any) -> Any:
        return Meter(*args, **kwargs, clock_us=lambda: now_us() + self.leap_us)

    def at_tick(
        self, tracker: MemoryTracker, tick: int, seconds: float, kind: RunKind = RunKind.TRIAL, number: int = 0
    ) -> None:
        """Leaps once a run has made so many steps."""
        log, seen = tracker.log, 0

        def counted(key: Any, metrics: dict[str, float], step: int) -> None:
            nonlocal seen
            if (key.kind, key.number) == (kind, number) and "train/loss" in metrics:
                seen += 1
                if seen == tick:
                    self.leap_us += round(seconds * 1e6)
            log(key, metrics, step)

        tracker.log = counted  # type: ignore[method-assign]


class Steady(Clock):
    """A clock that stands still but for steps and the parts of scorings, which always take the same."""

    TICK_S, PART_S, ROW_S = 2.0, 0.5, 0.05
    MOST_S = 10.0  # that one step or part takes here

    def meter(self, *args: Any, **kwargs: Any) -> Any:
        return Meter(*args, **kwargs, clock_us=lambda: self.leap_us, wall_s=lambda: self.leap_us / 1e6)

    def pass_s(self, seconds: float) -> None:
        assert seconds <= self.MOST_S
        self.leap_us += round(seconds * 1e6)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tick, part = Pack.tick, Pack._part

        def timed_tick(pack: Pack) -> list[Tick]:
            self.pass_s(self.TICK_S)
            return tick(pack)

        def timed_part(pack: Pack, items: Any, *args: Any) -> Any:
            self.pass_s(self.PART_S + self.ROW_S * len(items))
            return part(pack, items, *args)

        monkeypatch.setattr(spending, "Meter", self.meter)
        monkeypatch.setattr(workbench, "time", SimpleNamespace(monotonic=lambda: self.leap_us / 1e6))
        monkeypatch.setattr(Pack, "tick", timed_tick)
        monkeypatch.setattr(Pack, "_part", timed_part)


def test_the_cap_holds_in_the_middle_of_a_scoring(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(spending, "Meter", clock.meter)
    paths, tracker = prepare("search.trials=2", A_SECOND, "budget.usd=500", "engine.chunk_tokens=512"), MemoryTracker()
    original, calls = Workbench.evaluate, []

    def late(bench: Workbench, slots: Any, config: Any) -> Any:
        if not calls:
            clock.leap_us += 1000_000_000
        calls.append(len(slots))
        return original(bench, slots, config)

    monkeypatch.setattr(Workbench, "evaluate", late)
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert calls == [1]
    assert seen.attributes[ENDED]["key"] == "budget.usd"
    assert all(trial.curve == () for trial in seen.trials)
    assert set(seen.counts()) == {"WAITING"}


@pytest.mark.parametrize(
    ("limit", "more", "key"),
    [("budget.trials=2", "budget.trials=3", "budget.trials"), ("budget.hours=1e-9", "budget.hours=9", "budget.hours")],
)
def test_other_limits(prepare: Prepare, home: Home, limit: str, more: str, key: str) -> None:
    tracker = MemoryTracker()
    assert run(prepare(limit), tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert seen.attributes[ENDED]["key"] == key
    assert len(trained(seen)) == (2 if key == "budget.trials" else 0)
    assert run(prepare(more), tracker) == {"status": "finished"}
    assert len(trained(view(home, "demo"))) == 3


def test_a_confirmation_that_the_budget_cuts_goes_on_when_that_is_raised(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was another limit that had ended the search."""
    clock, tracker = Clock(), MemoryTracker()
    monkeypatch.setattr(spending, "Meter", clock.meter)
    first = (*ON, "search.trials=5", "budget.trials=2", A_SECOND)
    paths = prepare(*first, "budget.usd=5000")
    number = 0 * 2 * MOST_SEEDS + 1  # trial 0 on the first fresh seed
    clock.at_tick(tracker, 1, 9000.0, RunKind.CONFIRMATION, number)
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert seen.attributes[ENDED]["key"] == "budget.usd"
    assert seen.confirmation is None
    assert "test" not in seen.attributes
    assert paths.side_checkpoint("confirmation", number).is_file()
    assert tracker.states()[RunKey(RunKind.CONFIRMATION, number)] is RunState.SCHEDULED
    assert is_finished(seen, check.load(paths))

    paths = prepare(*first, "budget.usd=500000")
    assert not is_finished(seen, check.load(paths))
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert (len(trained(seen)), seen.attributes[ENDED]["key"]) == (2, "budget.trials")
    assert seen.confirmation is not None
    assert seen.best is not None
    assert seen.attributes["test"]["trial"] == seen.best.number
    assert tracker.runs[STUDY].tags["sweeper.ended"] == seen.attributes[ENDED]["message"]
    run(prepare(*ON, "search.trials=3"), tracker)
    assert tracker.runs[STUDY].tags["sweeper.ended"] == ""


def test_a_budget_that_does_not_pay_for_loading_is_not_spent_again(prepare: Prepare, home: Home) -> None:
    paths = prepare("budget.hours=1e-9")
    run(paths, MemoryTracker())
    spent = len(ledger_of(home).sessions("demo"))
    with pytest.raises(ConfigError, match=r"budget\.hours: must pay for more than loading .* a higher budget\.hours"):
        launcher._refuse_if_spent(home, check.load(paths))
    assert len(ledger_of(home).sessions("demo")) == spent
    launcher._refuse_if_spent(home, check.load(prepare("budget.hours=1")))


def test_the_stop_rule_ends_a_search_that_no_longer_pays(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("search.trials=9", "stop=no-improvement", "stop.trials=2"), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert seen.attributes[ENDED]["key"] == "stop.trials"
    assert 3 <= len(trained(seen)) < 9
    assert set(seen.counts()) <= {"COMPLETE", "PRUNED"}  # what was in flight came to its end
    assert seen.attributes["test"]["trial"] == seen.best.number if seen.best is not None else False
    assert is_finished(seen, check.load(paths))
    assert not is_finished(seen, check.load(prepare("search.trials=9")))


def test_the_first_trial_trains_alone_until_it_is_known_what_one_takes(prepare: Prepare, home: Home) -> None:
    run(prepare(A_SECOND, "budget.usd=1000"), MemoryTracker())
    first = view(home, "demo").trials[0].company
    assert [{number for number, _ in one["slots"]} for one in first[:2]] == [{0}, {0, 1}]
    assert list((home.pace).glob("*.json"))
    run(prepare("study.name=again", A_SECOND, "budget.usd=1000"), MemoryTracker())
    first = view(home, "again").trials[0].company  # and the next study knows it
    assert {number for number, _ in first[0]["slots"]} == {0, 1}


def test_the_first_forwards_and_the_first_tick_of_a_process_do_not_make_the_pace(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: dict[str, int] = defaultdict(int)
    part, tick = Pack._part, Pack.tick

    def cold(name: str) -> None:
        slept[name] += 1
        if slept[name] == 1:
            time.sleep(5)

    def part_slowly(pack: Pack, *args: Any) -> Any:
        cold("rows")
        return part(pack, *args)

    def tick_slowly(pack: Pack) -> list[Tick]:
        cold("tick")
        return tick(pack)

    monkeypatch.setattr(Pack, "_part", part_slowly)
    monkeypatch.setattr(Pack, "tick", tick_slowly)
    run(prepare("search.trials=1"), MemoryTracker())
    [file] = home.pace.glob("*.json")
    pace = known_pace(home.pace, file.stem)
    assert pace is not None
    assert slept["tick"] > 2
    assert slept["rows"] > 2
    assert pace.tick.y < 5
    assert pace.rows.y < 5
    calls = slept["rows"]
    run(prepare("search.trials=1", "study.name=again"), MemoryTracker())
    assert slept["rows"] - calls < calls  # what is known needs no warming up
