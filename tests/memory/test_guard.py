from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from sweeper.memory import oom
from sweeper.memory.guard import HISTORY, PRESSURE_BYTES, PRESSURE_LASTS_S, Guard, Moment
from sweeper.memory.nvml import Holder
from sweeper.memory.readings import ByteBudget, Reading
from sweeper.units import GIB, MIB

TOTAL = 1000 * MIB


@dataclass
class Tensors:
    """Counts the bytes of tensors that are not there."""

    live_bytes: int = 0
    peak_bytes: int = 0

    def reset_peak(self) -> None:
        self.peak_bytes = self.live_bytes

    def hold(self, size_bytes: int) -> None:
        self.live_bytes = size_bytes
        self.peak_bytes = max(self.peak_bytes, size_bytes)


class Card(ByteBudget):
    """A device on which a process holds something beside its tensors, as a CUDA context is."""

    def __init__(self, live: Tensors, total_bytes: int, beside_bytes: int) -> None:
        super().__init__(live, total_bytes)
        self.beside_bytes = beside_bytes

    def read(self) -> Reading:
        reading = super().read()
        free = max(0, reading.free_bytes - self.beside_bytes)
        return Reading(reading.total_bytes, free, reading.own_bytes, 0, reading.peak_bytes)

    def runtime_bytes(self) -> int:
        return self.beside_bytes


class Host(ByteBudget):
    """A device that counts what a process holds beside its tensors among what it holds, as a resident set does."""

    counts_runtime = True

    def runtime_bytes(self) -> int:
        return 40 * MIB


@pytest.fixture
def tensors() -> Tensors:
    return Tensors()


@pytest.fixture
def device(tensors: Tensors) -> ByteBudget:
    return ByteBudget(tensors, TOTAL)


def gib(mib: float) -> float:
    return mib * MIB / GIB


# What may be taken.


def test_without_a_budget_all_of_the_device_may_be_taken(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device)
    assert (guard.budget_bytes(), guard.room_bytes()) == (TOTAL, TOTAL)
    tensors.hold(300 * MIB)
    assert (guard.own_bytes(), guard.room_bytes()) == (300 * MIB, 700 * MIB)


def test_room_is_what_the_budget_leaves(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device, budget_gib=gib(600))
    tensors.hold(250 * MIB)
    assert (guard.budget_bytes(), guard.room_bytes()) == (600 * MIB, 350 * MIB)
    tensors.hold(700 * MIB)
    assert guard.room_bytes() == 0


def test_room_is_no_more_than_what_is_free(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device, budget_gib=gib(600))
    tensors.hold(250 * MIB)
    device.neighbour_bytes = 650 * MIB
    assert guard.room_bytes() == 100 * MIB
    assert guard.budget_bytes() == 600 * MIB  # of this process, whoever else is there
    device.neighbour_bytes = 900 * MIB
    assert guard.room_bytes() == 0


def test_the_reserve_stays_free(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device, reserve_gib=gib(100))
    assert (guard.budget_bytes(), guard.room_bytes()) == (900 * MIB, 900 * MIB)
    device.neighbour_bytes = 500 * MIB
    tensors.hold(200 * MIB)
    assert guard.room_bytes() == 200 * MIB  # of 300 that are free
    assert Guard(device, reserve_gib=gib(2000)).budget_bytes() == 0


def test_a_budget_above_the_device_is_cut_to_it(device: ByteBudget) -> None:
    assert Guard(device, budget_gib=gib(5000)).budget_bytes() == TOTAL
    assert Guard(device, budget_gib=gib(5000), reserve_gib=gib(100)).budget_bytes() == 900 * MIB
    assert Guard(device, budget_gib=gib(950), reserve_gib=gib(100)).budget_bytes() == 900 * MIB


def test_the_peak_is_since_it_was_reset(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device)
    tensors.hold(500 * MIB)
    tensors.hold(100 * MIB)
    assert guard.peak_bytes() == 500 * MIB
    device.reset_peak()
    assert guard.peak_bytes() == 100 * MIB


def test_what_a_process_holds_beside_tensors_counts_once(tensors: Tensors) -> None:
    guard = Guard(Card(tensors, TOTAL, beside_bytes=40 * MIB), budget_gib=gib(600))
    tensors.hold(100 * MIB)
    assert (guard.own_bytes(), guard.peak_bytes(), guard.room_bytes()) == (140 * MIB, 140 * MIB, 460 * MIB)
    guard = Guard(Card(tensors, TOTAL, beside_bytes=40 * MIB))
    assert guard.room_bytes() == 860 * MIB


def test_a_backend_that_counts_it_is_not_added_to(tensors: Tensors) -> None:
    tensors.hold(140 * MIB)
    guard = Guard(Host(tensors, TOTAL), budget_gib=gib(600))
    assert guard.runtime_bytes == 40 * MIB
    assert (guard.own_bytes(), guard.peak_bytes(), guard.room_bytes()) == (140 * MIB, 140 * MIB, 460 * MIB)


# Neighbours.


@pytest.mark.parametrize("budget_mib", [None, 600])
def test_a_neighbour_in_the_way_is_pressure(tensors: Tensors, device: ByteBudget, budget_mib: float | None) -> None:
    guard = Guard(device, None if budget_mib is None else gib(budget_mib))
    beside = TOTAL - guard.budget_bytes()
    tensors.hold(guard.budget_bytes() // 2)
    assert not guard.is_pressed()
    device.neighbour_bytes = beside + PRESSURE_BYTES  # a display, a monitor
    assert not guard.is_pressed()
    device.neighbour_bytes += 1
    assert guard.is_pressed()
    tensors.hold(0)
    assert guard.is_pressed()
    device.neighbour_bytes = 0
    assert not guard.is_pressed()


def test_a_neighbour_that_has_just_left_was_pressure(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device)
    assert not guard.was_pressed()
    device.neighbour_bytes = PRESSURE_BYTES + MIB
    assert guard.was_pressed()
    device.neighbour_bytes = 0
    assert not guard.is_pressed()
    assert guard.was_pressed()
    for moment in list(guard.history):  # long ago
        guard.history.append(Moment(moment.at_s - 2 * PRESSURE_LASTS_S, moment.reading))
        guard.history.popleft()
    assert not guard.was_pressed()


def test_a_full_device_without_a_neighbour_is_no_pressure(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device, reserve_gib=gib(100))
    tensors.hold(TOTAL)
    assert (guard.room_bytes(), guard.is_pressed()) == (0, False)


def test_the_reserve_is_no_neighbour(tensors: Tensors) -> None:
    card = Card(tensors, TOTAL, beside_bytes=40 * MIB)
    guard = Guard(card, reserve_gib=gib(100))
    assert not guard.is_pressed()
    card.neighbour_bytes = PRESSURE_BYTES + MIB
    assert guard.is_pressed()


def test_what_this_process_comes_to_hold_beside_tensors_is_no_neighbour(tensors: Tensors) -> None:
    card = Card(tensors, TOTAL, beside_bytes=40 * MIB)
    guard = Guard(card)
    card.beside_bytes += 3 * PRESSURE_BYTES  # a driver that has loaded kernels
    guard.measure_runtime()
    assert not guard.is_pressed()
    card.neighbour_bytes = PRESSURE_BYTES + MIB
    assert guard.is_pressed()


def test_a_description_has_the_numbers_and_names_others(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device, budget_gib=gib(512))
    tensors.hold(256 * MIB)
    words = "this process holds 0.25 GiB of its budget of 0.5 GiB; 0.727 of 0.977 GiB are free (bytes)"
    assert guard.describe() == words
    device.neighbour_bytes = 512 * MIB
    assert guard.describe().endswith("; others on it: neighbour (pid 0, 0.5 GiB)")


def test_a_description_has_what_is_held_beside_tensors(tensors: Tensors) -> None:
    guard = Guard(Card(tensors, TOTAL, beside_bytes=128 * MIB))
    tensors.hold(256 * MIB)
    assert guard.describe().startswith("this process holds 0.375 GiB of its budget of ")


def test_a_neighbour_of_unknown_size_is_named_too(
    tensors: Tensors, device: ByteBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "holders", lambda: [Holder(7, "blender", None), Holder(8, "python", 256 * MIB)])
    assert Guard(device).describe().endswith("others on it: blender (pid 7), python (pid 8, 0.25 GiB)")


# The watcher.


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memory-watcher"]


def test_a_thread_reads_while_it_watches_and_no_longer(device: ByteBudget) -> None:
    guard = Guard(device, watch_s=0.01)
    assert len(guard.history) == 1
    with guard.watching():
        assert len(watchers()) == 1
        device.neighbour_bytes = 900 * MIB
        wait_until(lambda: guard.history[-1].reading.free_bytes == 100 * MIB)
        device.neighbour_bytes = 0
        wait_until(lambda: guard.history[-1].reading.free_bytes == TOTAL)
    assert watchers() == []
    last = guard.history[-1]
    time.sleep(0.05)
    assert guard.history[-1] is last


def test_a_watcher_stops_where_the_work_fails(device: ByteBudget) -> None:
    with pytest.raises(RuntimeError, match="defect"), Guard(device, watch_s=0.01).watching():
        raise RuntimeError("defect")
    assert watchers() == []


def test_without_a_watcher_every_reading_is_fresh(device: ByteBudget) -> None:
    guard = Guard(device)
    with guard.watching():
        assert watchers() == []
        device.neighbour_bytes = 900 * MIB
        assert guard.room_bytes() == 100 * MIB


def test_between_two_readings_only_own_memory_is_new(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device, watch_s=60)
    device.neighbour_bytes = 500 * MIB  # seen when the watcher reads next
    tensors.hold(300 * MIB)
    assert guard.room_bytes() == 700 * MIB
    tensors.hold(0)
    assert guard.room_bytes() == TOTAL
    assert len(guard.history) == 1


def test_a_reading_in_the_middle_of_a_step_keeps_nobody_out_after_it(tensors: Tensors, device: ByteBudget) -> None:
    tensors.hold(900 * MIB)
    guard = Guard(device, watch_s=60)  # the watcher reads at the step's peak
    tensors.hold(200 * MIB)
    assert len(guard.history) == 1
    assert guard.room_bytes() == 800 * MIB


def test_an_old_reading_is_not_trusted(device: ByteBudget) -> None:
    guard = Guard(device, watch_s=0.01)
    device.neighbour_bytes = 900 * MIB
    time.sleep(0.03)
    assert guard.room_bytes() == 100 * MIB


def test_the_latest_readings_are_kept(tensors: Tensors, device: ByteBudget) -> None:
    guard = Guard(device, watch_s=60)
    started = time.time()
    for size in range(2 * HISTORY):
        tensors.hold(size * MIB)
        guard.is_pressed()
    assert [moment.reading.own_bytes // MIB for moment in guard.history][-3:] == [37, 38, 39]
    assert len(guard.history) == HISTORY
    row = guard.history[-1].as_dict()
    assert row.pop("time_s") == pytest.approx(started, abs=10)
    assert row == {
        "own_gib": 39 / 1024,
        "peak_gib": 39 / 1024,
        "free_gib": 961 / 1024,
        "cached_gib": 0.0,
        "total_gib": 1000 / 1024,
    }
    reading = Reading(own_bytes=GIB, peak_bytes=2 * GIB, free_bytes=3 * GIB, total_bytes=8 * GIB, cached_bytes=4 * GIB)
    assert Moment(1.23456, reading).as_dict()["cached_gib"] == 4.0


# Out of memory.


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
        torch.OutOfMemoryError(),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("HIP out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: cudaErrorMemoryAllocation"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
            "1 bytes. Error code 12 (Cannot allocate memory)"
        ),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:93] data. DefaultCPUAllocator: not enough memory: you tried to allocate 1"
        ),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:30]}",
)
def test_memory_runs_out_in_many_words(error: Exception) -> None:
    assert oom.is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        ValueError("out of memory"),
        KeyboardInterrupt("out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_not_for_memory(error: BaseException) -> None:
    assert not oom.is_out_of_memory(error)


def test_the_host_allocators_own_error_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert oom.is_out_of_memory(caught.value)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], int]]:
    """Something that fails some times, and then gives the number of the attempt."""
    monkeypatch.setattr(oom, "_PAUSE_S", 0.0)

    def prepare(*errors: Exception) -> Callable[[], int]:
        left = list(errors)

        def attempt() -> int:
            if left:
                raise left.pop(0)
            return len(errors) + 1

        return attempt

    return prepare


def test_what_runs_out_of_memory_is_tried_again(attempts: Callable[..., Callable[[], int]]) -> None:
    assert oom.patiently(attempts()) == 1
    assert oom.patiently(attempts(torch.OutOfMemoryError(), MemoryError())) == 3


def test_patience_ends(attempts: Callable[..., Callable[[], int]]) -> None:
    errors = [torch.OutOfMemoryError(f"attempt {number}") for number in range(9)]
    with pytest.raises(torch.OutOfMemoryError, match="attempt 4"):
        oom.patiently(attempts(*errors))


def test_there_is_no_patience_with_other_errors(attempts: Callable[..., Callable[[], int]]) -> None:
    attempt = attempts(ValueError("a defect"))
    with pytest.raises(ValueError, match="a defect"):
        oom.patiently(attempt)
    assert attempt() == 2


def test_each_attempt_finds_the_memory_of_the_one_before_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception of an attempt holds its frames, and they hold its tensors."""
    monkeypatch.setattr(oom, "_PAUSE_S", 0.0)
    alive: list[int] = []

    class Block:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def attempt() -> None:
        assert not alive
        _block = Block()
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        oom.patiently(attempt)


def test_the_runtime_is_measured_again_once_there_has_been_work(
    tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(tensors, TOTAL, 100 * MIB)
    card.workspace_bytes = 64 * MIB
    guard = Guard(card)
    tensors.hold(64 * MIB)
    assert (guard.base_bytes, guard.own_bytes(), guard.room_bytes()) == (164 * MIB, 164 * MIB, 836 * MIB)
    card.beside_bytes = 350 * MIB
    guard.measure_runtime()
    assert (guard.base_bytes, guard.own_bytes(), guard.room_bytes()) == (414 * MIB, 414 * MIB, 586 * MIB)
    card.beside_bytes = 0  # what a neighbour that left had seemed to be
    guard.measure_runtime()
    assert guard.base_bytes == 414 * MIB
    card.beside_bytes = 500 * MIB  # it may be a neighbour's
    monkeypatch.setattr(card, "holders", lambda: [Holder(7, "python", None)])
    guard.measure_runtime()
    assert guard.base_bytes == 414 * MIB
    host = Guard(Host(tensors, TOTAL))
    host.measure_runtime()
    assert host.base_bytes == 40 * MIB
