"""Studies on a budget of bytes: what does not fit is known before, what goes wrong costs no run."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sweeper.config import check
from sweeper.engine.bucket import AdapterState, Bucket
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot, Tick
from sweeper.engine.stack import AdapterStack
from sweeper.errors import OutOfRoomError
from sweeper.memory import oom, planner
from sweeper.memory.guard import Guard
from sweeper.memory.live import LiveBytes
from sweeper.memory.readings import ByteBudget
from sweeper.paths import Home, StudyPaths
from sweeper.search.asking import Asked
from sweeper.search.views import StudyView, view
from sweeper.trial import Reason
from sweeper.units import GIB, MIB
from sweeper.worker import memory, room, session
from sweeper.worker.recorder import trial_key
from tests.memory.storm import errors
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare
from tests.worker.test_session import assert_stores_agree, run

BUDGET_GIB = 0.018
HALF = [  # of its eight configurations four do not fit, not even alone
    "memory.backend=tensors",
    f"memory.budget_gib={BUDGET_GIB}",
    "search.space.rank=[8,32,112,128]",
    "+search.space.target_modules=[attention,all-linear]",
]


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(oom, "_PAUSE_S", 0.0)
    monkeypatch.setattr(room, "NEIGHBOUR_PAUSE_S", 0.01)


def events_of(paths: StudyPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.events.read_text().splitlines()]


def finishes(paths: StudyPaths, tracker: MemoryTracker) -> None:
    outcome = run(paths, tracker)
    assert outcome["status"] == "finished", outcome.get("trace") or outcome


def seen_of(home: Home, paths: StudyPaths) -> StudyView:
    return view(home, paths.name)


def test_a_space_that_is_half_infeasible(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare(*HALF, "search.trials=6", "engine.slots=3"), MemoryTracker()
    finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert_stores_agree(seen, tracker)
    config = check.load(paths)
    rejected = [trial for trial in seen.trials if trial.is_rejected]
    assert seen.rejections == len(rejected) > 0
    assert sum(trial.counts for trial in seen.trials) == 6
    for trial in seen.trials:
        is_small = int(str(trial.params["rank"])) <= 32
        assert (trial.constraints["vram"] <= 0) == is_small
        assert trial.is_rejected == (not is_small)
    # Not a device second went to them, and nobody who was let in ran out.
    assert sum(trial.duration_s or 0.0 for trial in rejected) == 0.0
    assert all(trial.reason != Reason.INFEASIBLE for trial in seen.trials if not trial.is_rejected)
    assert seen.best is not None
    assert seen.best.is_feasible
    taken = seen.attributes["memory"]
    assert 0 < taken["peak_gib"] <= taken["budget_gib"]
    assert taken["budget_gib"] == pytest.approx(config.memory.budget_gib)
    assert taken["rescues"] == {}
    assert (taken["prunes"], taken["evictions"]) == (0, 0)
    assert taken["is_traced"]
    assert 0.7 < taken["mean_ratio"] <= taken["highest_ratio"] <= 1.02
    for trial in seen.trials:
        if not trial.is_rejected:
            logged = tracker.runs[trial_key(trial.number)].metrics
            for peak, predicted, headroom, chunks in zip(
                *(logged[f"vram/{name}"] for name in ("peak_gib", "predicted_gib", "headroom_gib", "chunks")),
                strict=True,
            ):
                assert 0 < peak[1] <= BUDGET_GIB
                assert peak[1] <= predicted[1] * 1.02
                assert headroom[1] == pytest.approx(BUDGET_GIB - peak[1])
                assert chunks[1] >= 1


def test_memory_that_runs_out_anywhere_in_a_sweep_costs_no_trial(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One allocation in some ten thousand fails, in loading, training, scoring, admission and saving alike."""
    draws = random.Random(6)
    failures = [0]

    def fail(_size: int) -> None:
        if bench_is_ready and draws.random() < 1 / 12_000:
            failures[0] += 1
            raise draws.choice(errors())

    bench_is_ready: list[bool] = []
    prepared = session.forecast_of

    def ready(*args: Any) -> Any:
        bench_is_ready.append(True)
        return prepared(*args)

    monkeypatch.setattr(session, "forecast_of", ready)

    class Failing(LiveBytes):
        def __init__(self, limit_bytes: int) -> None:
            super().__init__(limit_bytes, on_allocation=fail)

    monkeypatch.setattr(memory, "LiveBytes", Failing)
    paths, tracker = prepare("memory.backend=tensors", "search.trials=4", "checkpoint.every_s=0.2"), MemoryTracker()
    finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert_stores_agree(seen, tracker)
    assert failures[0] >= 3
    assert [trial.state for trial in seen.trials] == ["COMPLETE"] * 4
    assert sum(seen.attributes["memory"]["rescues"].values()) >= 1


@contextmanager
def _meddling(monkeypatch: pytest.MonkeyPatch, meddle: Callable[[Guard, Pack], None]) -> Iterator[list[Guard]]:
    """Calls `meddle` before every tick."""
    guards: list[Guard] = []
    guarded, tick = session.guarded, Pack.tick

    @contextmanager
    def watched(*args: Any) -> Iterator[Guard]:
        with guarded(*args) as guard:
            guards.append(guard)
            yield guard

    def ticked(pack: Pack) -> list[Tick]:
        meddle(guards[-1], pack)
        return tick(pack)

    monkeypatch.setattr(session, "guarded", watched)
    monkeypatch.setattr(Pack, "tick", ticked)
    yield guards


def test_a_neighbour_between_check_and_use_makes_trials_wait_and_none_infeasible(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is full from the third tick to the twelfth: nobody trains, and nobody is to blame."""
    ticks = [0]
    limit = int(BUDGET_GIB * GIB)

    def neighbour(guard: Guard, _pack: Pack) -> None:
        ticks[0] += 1
        backend = guard.backend
        assert isinstance(backend, ByteBudget)
        assert isinstance(backend.live, LiveBytes)
        is_there = 3 <= ticks[0] < 12
        backend.neighbour_bytes = limit - backend.live.live_bytes if is_there else 0
        backend.live._limit_bytes = backend.live.live_bytes + 4096 if is_there else limit

    monkeypatch.setattr("sweeper.memory.guard.PRESSURE_BYTES", 1 * MIB)
    with _meddling(monkeypatch, neighbour):
        paths, tracker = prepare(*HALF, "search.trials=3", "search.space.rank=[8,32]"), MemoryTracker()
        finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert_stores_agree(seen, tracker)
    assert [trial.state for trial in seen.trials] == ["COMPLETE"] * 3
    assert all(trial.is_feasible for trial in seen.trials)
    assert seen.attributes["memory"]["prunes"] == 0
    said = [event.get("message", "") for event in events_of(paths)]
    assert any("waiting for memory that others hold" in line for line in said)
    assert any("neighbour" in line for line in said)


def test_a_leak_ends_trials_with_a_reason_and_not_the_sweep(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four MiB stay behind with every tick of a trial, until it has ended."""
    kept: list[torch.Tensor] = []

    def leak(_guard: Guard, pack: Pack) -> None:
        if all(slot.number < 2 for slot in pack.slots):
            kept.append(torch.zeros(4 * MIB, dtype=torch.uint8))
        else:
            kept.clear()

    with _meddling(monkeypatch, leak):
        paths, tracker = prepare(*HALF, "search.trials=3", "search.space.rank=[8,32]"), MemoryTracker()
        finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert_stores_agree(seen, tracker)
    assert sum(trial.counts for trial in seen.trials) == 3
    pruned = [trial for trial in seen.trials if trial.reason == Reason.INFEASIBLE]
    assert pruned
    assert seen.attributes["memory"]["evictions"] >= 1  # the other one, which waited, and went on later
    assert any("waits for memory" in event.get("message", "") for event in events_of(paths))
    for trial in pruned:
        assert trial.detail is not None
        assert "GiB of its budget" in trial.detail
        assert trial.constraints["vram"] > 0
        assert tracker.runs[trial_key(trial.number)].files[""][-1] == "memory.json"
        readings = json.loads(paths.readings(trial.number).read_text())
        assert max(reading["peak_gib"] for reading in readings) > 0.9 * BUDGET_GIB
        assert {"time_s", "own_gib", "peak_gib", "free_gib", "cached_gib", "total_gib"} == set(readings[-1])
    assert seen.best is not None


def test_one_long_row_late_in_the_epoch_is_cut_to_fit(prepare: Prepare, home: Home, few_tickets: Path) -> None:
    """The longest row is eight times as long as the others: it goes alone, recomputed if it must."""
    rows = [json.loads(line) for line in (few_tickets / "train.jsonl").read_text().splitlines()]
    rows[-1]["text"] = " ".join([rows[-1]["text"]] * 8)
    folder = home.root / "data"
    shutil.copytree(few_tickets, folder)
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths, tracker = (
        prepare(
            *(line for line in HALF if "rank" not in line),
            f"data.path={folder}",
            "search.space.rank=[8,64]",
            "search.trials=2",
            "train.examples=96",
            "memory.rehearse=true",
        ),
        MemoryTracker(),
    )
    finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert {trial.state for trial in seen.trials if not trial.is_rejected} == {"COMPLETE"}
    assert seen.attributes["memory"]["rescues"] == {}
    trained = next(trial for trial in seen.trials if not trial.is_rejected)
    chunks = [value for _, value in tracker.runs[trial_key(trained.number)].metrics["vram/chunks"]]
    assert max(chunks) > min(chunks)
    steps = tracker.runs[trial_key(trained.number)].metrics
    peak_gib, at = max((value, at) for at, value in steps["vram/peak_gib"])
    assert trained.vram_peak_gib == pytest.approx(peak_gib, abs=1e-6)  # of its largest step
    assert trained.vram_predicted_gib == pytest.approx(dict(steps["vram/predicted_gib"])[at], abs=1e-6)
    assert any("rehearsed the longest step" in event.get("message", "") for event in events_of(paths))


def test_a_forecast_that_was_too_low_ends_trials_with_what_was_measured(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is foretold, and all trials are let in: those that fit are trained, the others end with their reason."""
    monkeypatch.setattr(memory.MemoryForecast, "solo_bytes", lambda self, params: 1)
    paths, tracker = prepare(*HALF, "search.trials=3", "search.space.rank=[128]"), MemoryTracker()
    finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert_stores_agree(seen, tracker)
    fit = [trial for trial in seen.trials if trial.params["target_modules"] == "attention"]
    others = [trial for trial in seen.trials if trial not in fit]
    assert fit
    assert others
    assert [trial.state for trial in fit] == ["COMPLETE"] * len(fit)
    assert seen.best in fit
    for trial in others:
        assert trial.reason == Reason.INFEASIBLE
        assert trial.constraints["vram"] > 0
        assert "of its budget" in str(trial.detail)
    assert seen.attributes["memory"]["prunes"] == len(others)


def test_a_neighbour_that_stays_stops_the_study_and_keeps_its_trials(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, is_there = int(BUDGET_GIB * GIB), True

    def neighbour(guard: Guard, _pack: Pack) -> None:
        backend = guard.backend
        assert isinstance(backend, ByteBudget)
        assert isinstance(backend.live, LiveBytes)
        backend.neighbour_bytes = limit - backend.live.live_bytes if is_there else 0
        backend.live._limit_bytes = backend.live.live_bytes + 4096 if is_there else limit

    monkeypatch.setattr("sweeper.memory.guard.PRESSURE_BYTES", 1 * MIB)
    overrides = [*HALF, "search.trials=2", "search.space.rank=[8]", "memory.wait_s=0.2"]
    with _meddling(monkeypatch, neighbour):
        paths, tracker = prepare(*overrides), MemoryTracker()
        outcome = run(paths, tracker)
        assert outcome["kind"] == "OutOfRoomError"
        assert "memory.wait_s = 0.2 s" in outcome["message"]
        assert "neighbour" in outcome["message"]
        assert {trial.state for trial in seen_of(home, paths).trials} == {"WAITING"}
        is_there = False
        finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert_stores_agree(seen, tracker)
    assert [trial.state for trial in seen.trials] == ["COMPLETE"] * 2


def test_an_eviction_whose_checkpoint_is_not_written_costs_nothing(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for checkpoints on the disk: the trial that leaves waits in host memory."""
    ticks = [0]
    tick = Pack.tick

    def fail_twice(pack: Pack) -> list[Tick]:
        ticks[0] += 1
        if len(pack.slots) == 2 and ticks[0] >= 3:
            raise OutOfRoomError("one row must fit")
        return tick(pack)

    monkeypatch.setattr(Pack, "tick", fail_twice)
    paths = prepare("memory.backend=tensors", "search.trials=2", "checkpoint.max_gib=0")
    tracker = MemoryTracker()
    finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert [trial.state for trial in seen.trials] == ["COMPLETE"] * 2
    # Two together make what did not fit: the one that left comes back when the other is done, and not before.
    assert seen.attributes["memory"]["evictions"] == 1
    started = [event["step"] for event in events_of(paths) if event["event"] == "trial_started"]
    assert started == [0, 0, 2]
    losses = tracker.runs[trial_key(1)].metrics["train/loss"]
    assert [examples for examples, _ in losses] == [8, 16, 24, 32]


def test_trials_that_can_never_be_together_are_trained_one_by_one(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out, admit, numbers = AdapterStack._bucket, room.Room.admit, []

    def let_in(self: room.Room, asked: Asked) -> Slot | None:
        numbers.append(asked.number)
        return admit(self, asked)

    def short(stack: AdapterStack, states: list[AdapterState]) -> Bucket:
        if numbers and stack.slots > 1:
            raise torch.OutOfMemoryError("no room for two")
        return lay_out(stack, states)

    monkeypatch.setattr(room.Room, "admit", let_in)
    monkeypatch.setattr(AdapterStack, "_bucket", short)
    paths, tracker = prepare("memory.backend=tensors", "search.trials=3"), MemoryTracker()
    finishes(paths, tracker)
    seen = seen_of(home, paths)
    assert [trial.state for trial in seen.trials] == ["COMPLETE"] * 3
    assert seen.attributes["memory"]["evictions"] >= 1
    for number in range(3):  # none began again
        examples = [examples for examples, _ in tracker.runs[trial_key(number)].metrics["train/loss"]]
        assert examples == sorted(set(examples))


def test_a_trial_that_has_begun_is_not_rejected_when_the_forecast_grows(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, tracker = prepare("memory.backend=tensors", "search.trials=2", "checkpoint.every_s=0.01"), MemoryTracker()
    has_begun = lambda: paths.events.read_text().count('"tick"') >= 2  # noqa: E731
    assert run(paths, tracker, has_begun)["status"] == "stopped"
    assert list(paths.root.glob("trials/*/checkpoint.safetensors"))
    monkeypatch.setattr(memory.MemoryForecast, "solo_bytes", lambda self, params: 2 * self.budget_bytes)
    finishes(paths, tracker)
    seen = seen_of(home, paths)
    begun = [trial for trial in seen.trials if not trial.is_rejected]
    assert [trial.state for trial in begun] == ["COMPLETE"] * 2
    assert seen.best in begun
    assert seen.best.is_feasible


def test_a_budget_below_the_worker_itself_is_said_at_once(prepare: Prepare) -> None:
    outcome = run(prepare("memory.budget_gib=0.01"), MemoryTracker())
    assert outcome["kind"] == "OutOfRoomError"
    assert "raise memory.budget_gib" in outcome["message"]


def test_a_base_that_does_not_fit_is_said_with_its_numbers(prepare: Prepare) -> None:
    outcome = run(prepare("memory.backend=tensors", "memory.budget_gib=0.001"), MemoryTracker())
    assert outcome["kind"] == "OutOfRoomError"
    assert "base" in outcome["message"]


def test_the_rehearsal_comes_first_only_when_it_is_asked_for_or_memory_is_scarce(prepare: Prepare) -> None:
    said = {}
    for asked in ("true", "false", "auto"):
        paths = prepare(f"study.name=rehearse-{asked}", f"memory.rehearse={asked}", "search.trials=1")
        assert run(paths, MemoryTracker())["status"] == "finished"
        said[asked] = any("rehearsed" in event.get("message", "") for event in events_of(paths))
    assert said == {"true": True, "false": False, "auto": False}


def test_the_watcher_looks_as_often_as_it_is_told_to(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    intervals = []

    class Watched(Guard):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            intervals.append(self._watch_s)

    monkeypatch.setattr(memory, "Guard", Watched)
    for seconds in (0.1, 7.0):
        run(prepare(f"study.name=watch-{seconds:.0f}", f"memory.watch_s={seconds}", "search.trials=1"), MemoryTracker())
    assert intervals == [0.1, 7.0]


def test_workers_of_earlier_runs_are_named_and_left_alone() -> None:
    """Another process holds memory of the card; what its command line says is said."""
    words = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "sweeper.worker", "--index", "0", "old-study"]
    process = subprocess.Popen(words)
    try:
        while psutil.Process(process.pid).cmdline()[-1:] != words[-1:]:  # the system shows it a moment later
            time.sleep(0.01)

        class Held(ByteBudget):
            def holders(self) -> list[Any]:
                from sweeper.memory.nvml import Holder

                return [Holder(process.pid, "python", 3 * GIB), Holder(1, "init", None)]

        lines = memory.neighbours(Guard(Held(LiveBytes(), GIB)))
        assert lines[0] == (
            f"a worker of the study 'old-study' (pid {process.pid}) holds 3.00 GiB on the device; "
            "if it is left from an earlier run, end it"
        )
        assert lines[1] == "init (pid 1) holds memory on the device"
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
