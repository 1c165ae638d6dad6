from __future__ import annotations

import gc
import inspect
import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest
import torch

from sweeper.memory.nvml import Holder, NvmlDevice, NvmlUnavailable, card_at
from sweeper.memory.oom import free_caches
from sweeper.memory.readings import ByteBudget, CudaBackend, HostBackend, MemoryBackend, Reading, backend_for
from sweeper.units import GIB, MIB

NOT_AVAILABLE = 2**64 - 1
CUDA_0 = torch.device("cuda", 0)
A_UUID, B_UUID = "aaaaaaaa-0000-0000-0000-000000000000", "bbbbbbbb-0000-0000-0000-000000000000"


@dataclass
class Card:
    """A made-up device, which NVML and CUDA both look at."""

    uuid: str  # with its prefix, as NVML has it
    name: str = "a made-up card"
    total_bytes: int = 8 * GIB
    neighbour_bytes: int = 0
    reserved_bytes: int = 0
    own_bytes: int = 0
    peak_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        return self.neighbour_bytes + self.reserved_bytes


class FakeCuda:
    """The part of torch.cuda that is read, over made-up cards in CUDA's order. Reserves blocks of 20 MiB."""

    def __init__(self, *cards: Card) -> None:
        self.cards = cards
        self.failure: Exception | None = None
        self.context_bytes = 0  # what the first call that needs one makes
        self.workspace_bytes = 0  # what the first product takes of the allocator's memory
        self.limits: dict[int, float] = {}

    def synchronize(self, device: torch.device) -> None:
        self._card(device).neighbour_bytes += self.context_bytes
        self.context_bytes = 0

    def multiply(self, device: torch.device) -> None:
        card = self._card(device)
        card.own_bytes += self.workspace_bytes
        card.reserved_bytes = _blocks(card.own_bytes)
        card.peak_bytes = max(card.peak_bytes, card.own_bytes)

    def set_per_process_memory_fraction(self, fraction: float, device: torch.device) -> None:
        assert device.index is not None
        self.limits[device.index] = fraction

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, device: torch.device) -> Any:
        card = self._card(device)
        # CUDA leaves out what the driver reserves.
        return types.SimpleNamespace(uuid=card.uuid[4:], total_memory=int(card.total_bytes * 0.98))

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        if self.failure:
            raise self.failure
        card = self._card(device)
        return card.total_bytes - card.used_bytes, card.total_bytes

    def memory_stats(self, device: torch.device) -> dict[str, Any]:
        card = self._card(device)
        return {
            "allocated_bytes.all.current": card.own_bytes,
            "allocated_bytes.all.peak": card.peak_bytes,
            "reserved_bytes.all.current": card.reserved_bytes,
        }

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self._card(device).peak_bytes = self._card(device).own_bytes

    def empty_cache(self) -> None:
        for card in self.cards:
            card.reserved_bytes = _blocks(card.own_bytes)

    def allocate(self, size_bytes: int, index: int = 0) -> Callable[[], None]:
        card = self.cards[index]

        def free() -> None:
            card.own_bytes -= size_bytes

        card.own_bytes += size_bytes
        card.peak_bytes = max(card.peak_bytes, card.own_bytes)
        card.reserved_bytes = max(card.reserved_bytes, _blocks(card.own_bytes))
        return free

    def _card(self, device: torch.device) -> Card:
        assert device.index is not None
        return self.cards[device.index]


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // (20 * MIB)) * 20 * MIB


class FakeNvml:
    """pynvml over made-up cards in NVML's order; the errors are pynvml's own. `fail` maps a function to its error."""

    NVMLError = pynvml.NVMLError
    NVMLLibraryMismatchError = pynvml.NVMLLibraryMismatchError

    def __init__(self, *cards: Card) -> None:
        self.cards = cards
        self.fail: dict[str, Exception] = {}
        self.memory: dict[str, int] = {}  # put in place of the true values
        self.unknown_uuid = pynvml.NVML_ERROR_NOT_FOUND
        self.compute: list[Any] = []
        self.graphics: list[Any] = []

    def nvmlInit(self) -> None:  # noqa: N802
        self._may_fail("nvmlInit")

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.95.05"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        if index >= len(self.cards):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.cards[index]

    def nvmlDeviceGetName(self, card: Card) -> str:  # noqa: N802
        return card.name

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:  # noqa: N802
        self._may_fail("nvmlDeviceGetHandleByUUID")
        for card in self.cards:
            if card.uuid == uuid:
                return card
        raise pynvml.NVMLError(self.unknown_uuid)

    def nvmlDeviceGetMemoryInfo(self, handle: Card) -> Any:  # noqa: N802
        self._may_fail("nvmlDeviceGetMemoryInfo")
        values = {
            "total": handle.total_bytes,
            "free": handle.total_bytes - handle.used_bytes,
            "used": handle.used_bytes,
        }
        return types.SimpleNamespace(**(values | self.memory))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Card) -> list[Any]:  # noqa: N802
        assert handle in self.cards
        self._may_fail("nvmlDeviceGetComputeRunningProcesses")
        return self.compute

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Card) -> list[Any]:  # noqa: N802
        assert handle in self.cards
        self._may_fail("nvmlDeviceGetGraphicsRunningProcesses")
        return self.graphics

    def _may_fail(self, function: str) -> None:
        if function in self.fail:
            raise self.fail[function]


def process(pid: int, used_bytes: int | None) -> Any:
    return types.SimpleNamespace(pid=pid, usedGpuMemory=used_bytes)


def card_and_nvml() -> tuple[Card, FakeNvml]:
    card = Card(f"GPU-{A_UUID}")
    return card, FakeNvml(card)


def device_of(nvml: FakeNvml, uuid: str = A_UUID, cuda_total_bytes: int = 8 * GIB) -> NvmlDevice:
    return NvmlDevice(uuid, cuda_total_bytes, load=lambda: nvml)


def backend_of(cuda: FakeCuda, nvml: FakeNvml, device: torch.device = CUDA_0) -> CudaBackend:
    return CudaBackend(device, cuda, lambda uuid, total: NvmlDevice(uuid, total, load=lambda: nvml), cuda.multiply)


def no_pynvml() -> Any:
    raise ModuleNotFoundError("No module named 'pynvml'")


def without_nvml(cuda: FakeCuda) -> CudaBackend:
    return CudaBackend(CUDA_0, cuda, lambda uuid, total: NvmlDevice(uuid, total, load=no_pynvml), cuda.multiply)


@pytest.mark.parametrize(
    ("visible", "index", "name"),
    [
        (None, 0, "a"),
        (None, 1, "b"),
        ("1,0", 0, "b"),
        ("1", 0, "b"),
        (f" GPU-{B_UUID}, GPU-{A_UUID}", 1, "a"),
    ],
)
def test_a_card_is_found_without_cuda(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, index: int, name: str
) -> None:
    nvml = FakeNvml(Card("GPU-" + A_UUID, name="a"), Card("GPU-" + B_UUID, total_bytes=24 * GIB, name="b"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert card_at(index, lambda: nvml) == (name, 8 * GIB if name == "a" else 24 * GIB)


@pytest.mark.parametrize(("visible", "index"), [("", 0), ("0", 1), ("7", 0), ("GPU-none", 0), (None, 7)])
def test_a_card_that_cuda_does_not_see_is_none(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, index: int
) -> None:
    nvml = FakeNvml(Card("GPU-" + A_UUID, name="a"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(NvmlUnavailable):
        card_at(index, lambda: nvml)


def test_a_card_is_not_found_without_pynvml() -> None:
    with pytest.raises(NvmlUnavailable, match="pynvml cannot be imported"):
        card_at(0, no_pynvml)


def test_the_context_is_there_before_it_is_measured() -> None:
    cuda = FakeCuda(Card("GPU-" + A_UUID))
    cuda.context_bytes = 300 * MIB
    assert backend_of(cuda, FakeNvml(*cuda.cards)).runtime_bytes() == 300 * MIB


def test_what_libraries_keep_of_the_allocators_memory_is_told_from_the_context() -> None:
    cuda = FakeCuda(Card("GPU-" + A_UUID))
    cuda.context_bytes, cuda.workspace_bytes = 300 * MIB, 64 * MIB
    backend = backend_of(cuda, FakeNvml(*cuda.cards))
    assert (backend.runtime_bytes(), backend.workspace_bytes, backend.own_bytes()) == (300 * MIB, 64 * MIB, 64 * MIB)
    cuda.context_bytes = 250 * MIB  # code of kernels that came later
    assert (backend.runtime_bytes(), backend.workspace_bytes) == (550 * MIB, 64 * MIB)


def test_an_allocator_that_was_not_used_yet_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(Card("GPU-" + A_UUID))
    monkeypatch.setattr(cuda, "memory_stats", lambda device: {})  # as torch's before CUDA is initialised
    backend = backend_of(cuda, FakeNvml(*cuda.cards))
    assert backend.own_bytes() == 0
    assert backend.read() == Reading(8 * GIB, 8 * GIB, 0, 0, 0)


def test_what_others_hold_is_no_context() -> None:
    cuda = FakeCuda(Card("GPU-" + A_UUID, neighbour_bytes=1000 * MIB))
    cuda.context_bytes, cuda.workspace_bytes = 300 * MIB, 64 * MIB
    cuda.multiply(CUDA_0)  # tensors that are there already
    nvml = FakeNvml(*cuda.cards)
    nvml.compute = [process(11, 600 * MIB), process(12, None)]  # the driver does not say what 12 holds: 400 MiB
    backend = backend_of(cuda, nvml)
    assert backend.runtime_bytes() == 700 * MIB
    assert backend.workspace_bytes == 64 * MIB
    nvml.compute = [process(11, 5000 * MIB)]  # lists are older than readings
    assert backend.runtime_bytes() == 0


def test_the_allocator_is_told_what_it_may_hold() -> None:
    cuda = FakeCuda(Card("GPU-" + A_UUID))
    backend = backend_of(cuda, FakeNvml(*cuda.cards))
    backend.limit(4 * GIB)
    assert cuda.limits[0] == pytest.approx(4 / (8 * 0.98))
    backend.limit(80 * GIB)
    assert cuda.limits[0] == 1.0
    without_nvml(cuda).limit(-1)
    assert cuda.limits[0] == 0.0


@dataclass
class Live:
    live_bytes: int = 0
    peak_bytes: int = 0

    def reset_peak(self) -> None:
        self.peak_bytes = self.live_bytes

    def allocate(self, size_bytes: int) -> Callable[[], None]:
        def free() -> None:
            self.live_bytes -= size_bytes

        self.live_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return free


@dataclass
class Rig:
    """A backend, and how memory is taken from its device."""

    backend: MemoryBackend
    name: str
    allocate: Callable[[int], Callable[[], None]]  # returns what frees it
    noise_bytes: int = 0  # what comes and goes by itself


def allocate_tensor(size_bytes: int, device: str) -> Callable[[], None]:
    held = [torch.ones(size_bytes, dtype=torch.uint8, device=device)]  # written to: a page counts once it is touched
    return held.clear


def cuda_with_nvml() -> Rig:
    card, nvml = card_and_nvml()
    cuda = FakeCuda(card)
    nvml.compute = [process(2**22 + 1, GIB)]
    return Rig(backend_of(cuda, nvml), "nvml", cuda.allocate)


def cuda_without_nvml() -> Rig:
    cuda = FakeCuda(Card(f"GPU-{A_UUID}"))
    return Rig(without_nvml(cuda), "torch", cuda.allocate)


def host() -> Rig:
    gc.collect()  # what other tests left behind would go at any moment
    return Rig(HostBackend(), "host", lambda size: allocate_tensor(size, "cpu"), noise_bytes=16 * MIB)


def byte_budget() -> Rig:
    live = Live()
    budget = ByteBudget(live, GIB)
    budget.neighbour_bytes = 100 * MIB
    return Rig(budget, "bytes", live.allocate)


def real_cuda() -> Rig:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    backend = backend_for(torch.device("cuda"))
    return Rig(backend, backend.name, lambda size: allocate_tensor(size, "cuda"), noise_bytes=4 * MIB)


RIGS = [cuda_with_nvml, cuda_without_nvml, host, byte_budget, pytest.param(real_cuda, marks=pytest.mark.gpu)]


@pytest.fixture(params=RIGS, ids=lambda make: make.__name__)
def rig(request: pytest.FixtureRequest) -> Rig:
    made: Rig = request.param()
    return made


def check(reading: Reading) -> None:
    assert reading.total_bytes >= reading.free_bytes >= 0
    assert reading.total_bytes > 0
    assert reading.peak_bytes >= reading.own_bytes >= 0
    assert reading.cached_bytes >= 0
    assert reading.available_bytes == reading.free_bytes + reading.cached_bytes


# The contract, over every backend.


def test_readings_follow_what_is_taken_and_given_back(rig: Rig) -> None:
    size, noise = 64 * MIB, rig.noise_bytes
    free_caches()
    rig.backend.reset_peak()
    before = rig.backend.read()
    check(before)
    free = rig.allocate(size)
    held = rig.backend.read()
    check(held)
    assert abs(held.own_bytes - before.own_bytes - size) <= noise
    assert abs(held.peak_bytes - held.own_bytes) <= noise
    free()
    after = rig.backend.read()
    check(after)
    assert abs(after.own_bytes - before.own_bytes) <= noise
    assert after.peak_bytes >= held.own_bytes - noise  # the peak stays
    assert abs(rig.backend.own_bytes() - after.own_bytes) <= noise


def test_a_reset_brings_the_peak_down_to_what_is_held(rig: Rig) -> None:
    rig.allocate(64 * MIB)()
    rig.backend.read()
    rig.backend.reset_peak()
    reading = rig.backend.read()
    assert reading.peak_bytes - reading.own_bytes <= rig.noise_bytes


def test_holders_are_other_processes_biggest_first(rig: Rig) -> None:
    holders = rig.backend.holders()
    assert os.getpid() not in [holder.pid for holder in holders]
    sizes = [-1 if holder.used_bytes is None else holder.used_bytes for holder in holders]
    assert sizes == sorted(sizes, reverse=True)


def test_the_name_says_what_is_read_and_notes_are_sentences(rig: Rig) -> None:
    rig.backend.read()
    rig.backend.holders()
    assert rig.backend.name == rig.name
    for note in rig.backend.notes:
        assert note[0].isupper()
        assert note.endswith(".")
        assert not note.endswith("..")
        assert "\n" not in note


# CUDA: NVML or torch.


def test_nvml_and_torch_read_the_same_device() -> None:
    card, nvml = card_and_nvml()
    card.neighbour_bytes = 3 * GIB
    cuda = FakeCuda(card)
    cuda.allocate(50 * MIB)
    backend, fallback = backend_of(cuda, nvml), without_nvml(cuda)
    expected = Reading(8 * GIB, 5 * GIB - 60 * MIB, 50 * MIB, 10 * MIB, 50 * MIB)
    assert backend.read() == fallback.read() == expected
    assert (backend.name, backend.notes) == ("nvml", ())
    assert fallback.name == "torch"
    assert fallback.holders() == []
    [note] = fallback.notes
    assert "pynvml cannot be imported" in note
    assert "install nvidia-ml-py" in note


def test_a_device_without_an_index_is_the_current_one() -> None:
    card, nvml = card_and_nvml()
    assert backend_of(FakeCuda(card), nvml, torch.device("cuda")).read().total_bytes == 8 * GIB


@pytest.mark.parametrize("prefix", ["GPU-", "MIG-"])
def test_the_device_is_found_by_uuid_where_the_orders_differ(prefix: str) -> None:
    first, second = Card(prefix + A_UUID, neighbour_bytes=GIB), Card(prefix + B_UUID, neighbour_bytes=2 * GIB)
    cuda, nvml = FakeCuda(first, second), FakeNvml(second, first)
    assert backend_of(cuda, nvml, torch.device("cuda", 0)).read().free_bytes == 7 * GIB
    assert backend_of(cuda, nvml, torch.device("cuda", 1)).read().free_bytes == 6 * GIB


def test_a_uuid_with_its_prefix_is_taken_as_it_is() -> None:
    _, nvml = card_and_nvml()
    assert device_of(nvml, f"GPU-{A_UUID}").memory() == (8 * GIB, 8 * GIB)
    with pytest.raises(NvmlUnavailable, match=f"no device of the UUID MIG-{A_UUID}"):
        device_of(nvml, f"MIG-{A_UUID}")


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT])
def test_an_unknown_uuid_makes_nvml_unavailable(code: int) -> None:
    _, nvml = card_and_nvml()
    nvml.unknown_uuid = code
    with pytest.raises(NvmlUnavailable, match=f"knows no device of the UUID GPU-{B_UUID} or MIG-{B_UUID}"):
        device_of(nvml, B_UUID)


def test_the_whole_card_is_not_taken_for_its_instance() -> None:
    card, nvml = card_and_nvml()
    card.total_bytes = 80 * GIB
    with pytest.raises(NvmlUnavailable, match=r"has 80\.0 GiB, CUDA's has 9\.5 GiB, as where CUDA sees one MIG"):
        device_of(nvml, cuda_total_bytes=int(9.5 * GIB))


FAILURES = [
    ("nvmlInit", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "the NVML library, .* is not on this machine"),
    ("nvmlInit", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
    ("nvmlInit", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions; restart"),
    ("nvmlInit", pynvml.NVML_ERROR_NO_PERMISSION, "no permission"),
    ("nvmlDeviceGetHandleByUUID", pynvml.NVML_ERROR_NO_PERMISSION, "no permission"),
    ("nvmlDeviceGetHandleByUUID", pynvml.NVML_ERROR_UNINITIALIZED, "has shut NVML down"),
    ("nvmlDeviceGetHandleByUUID", pynvml.NVML_ERROR_GPU_IS_LOST, "fallen off the bus"),
    ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_NOT_SUPPORTED, "does not support"),
    ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_UNINITIALIZED, "has shut NVML down"),
    ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_UNKNOWN, r"failed with NVMLError_Unknown \(Unknown Error\)"),
]


@pytest.mark.parametrize(("function", "code", "reason"), FAILURES)
def test_a_failure_at_the_start_leaves_torch(function: str, code: int, reason: str) -> None:
    card, nvml = card_and_nvml()
    nvml.fail[function] = pynvml.NVMLError(code)
    with pytest.raises(NvmlUnavailable, match=reason):
        device_of(nvml)
    backend = backend_of(FakeCuda(card), nvml)
    assert backend.name == "torch"
    assert backend.read().free_bytes == 8 * GIB
    assert len(backend.notes) == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"total": NOT_AVAILABLE, "free": NOT_AVAILABLE, "used": NOT_AVAILABLE}, "N/A"),
        ({"used": NOT_AVAILABLE}, "N/A"),
        ({"used": 9 * GIB}, r"cannot be \(total=8589934592, used=9663676416"),
        ({"free": 9 * GIB}, "cannot be"),
        ({"total": 0, "free": 0, "used": 0}, r"cannot be \(total=0"),
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, int], reason: str) -> None:
    card, nvml = card_and_nvml()
    backend = backend_of(FakeCuda(card), nvml)
    nvml.memory = values
    with pytest.raises(NvmlUnavailable, match=reason):
        device_of(nvml)
    check(backend.read())
    assert backend.name == "torch"


def test_a_failure_later_is_noted_once_and_torch_is_read_from_then_on() -> None:
    card, nvml = card_and_nvml()
    backend = backend_of(FakeCuda(card), nvml)
    backend.read()
    assert (backend.name, backend.notes) == ("nvml", ())
    nvml.fail["nvmlDeviceGetMemoryInfo"] = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    card.neighbour_bytes = GIB
    assert backend.read().free_bytes == 7 * GIB
    del nvml.fail["nvmlDeviceGetMemoryInfo"]
    backend.read()
    assert backend.name == "torch"
    [note] = backend.notes
    assert "torch is asked from now on" in note
    assert backend.holders() == []


def test_where_cuda_fails_too_the_last_reading_stands() -> None:
    card = Card(f"GPU-{A_UUID}", neighbour_bytes=GIB)
    cuda = FakeCuda(card)
    backend = without_nvml(cuda)
    backend.read()
    cuda.failure = RuntimeError("CUDA error: an illegal memory access was encountered.\nfor debugging\nconsider ...")
    for _ in range(2):
        assert backend.read().free_bytes == 7 * GIB
    assert backend.notes[1:] == (
        "CUDA does not give the device's memory, so the last reading stands: "
        "CUDA error: an illegal memory access was encountered.",
    )


def test_holders_come_from_both_lists_once_and_without_this_process() -> None:
    card, nvml = card_and_nvml()
    parent = os.getppid()
    nvml.compute = [process(2**22 + 1, None), process(os.getpid(), 5 * GIB), process(2**22 + 2, NOT_AVAILABLE)]
    nvml.compute += [process(parent, GIB), process(2**22 + 3, 2 * GIB)]
    nvml.graphics = [process(parent, MIB), process(2**22 + 1, MIB)]  # the larger counts
    assert backend_of(FakeCuda(card), nvml).holders() == [
        Holder(2**22 + 3, "unknown", 2 * GIB),
        Holder(parent, psutil.Process(parent).name(), GIB),
        Holder(2**22 + 1, "unknown", MIB),
        Holder(2**22 + 2, "unknown", None),
    ]


def test_a_card_without_graphics_still_lists_what_computes() -> None:
    card, nvml = card_and_nvml()
    nvml.compute = [process(2**22 + 1, GIB)]
    nvml.fail["nvmlDeviceGetGraphicsRunningProcesses"] = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    backend = backend_of(FakeCuda(card), nvml)
    assert [holder.used_bytes for holder in backend.holders()] == [GIB]
    assert backend.notes == ()


@pytest.mark.parametrize(
    "error",
    [pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION), pynvml.NVMLLibraryMismatchError("use a versioned function")],
    ids=["no permission", "older driver"],
)
def test_processes_that_are_not_listed_leave_the_memory_with_nvml(error: Exception) -> None:
    card, nvml = card_and_nvml()
    nvml.fail["nvmlDeviceGetComputeRunningProcesses"] = error
    backend = backend_of(FakeCuda(card), nvml)
    assert backend.holders() == backend.holders() == []
    backend.read()
    assert backend.name == "nvml"
    assert len(backend.notes) == 1


def test_pynvml_has_what_the_fake_plays() -> None:
    for name in [name for name in vars(FakeNvml) if name.startswith("nvml")]:
        required = [
            parameter
            for parameter in inspect.signature(getattr(pynvml, name)).parameters.values()
            if parameter.default is parameter.empty
        ]
        assert len(required) == len(inspect.signature(getattr(FakeNvml, name)).parameters) - 1, name
    assert pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value == NOT_AVAILABLE
    assert {name for name, _ in pynvml.c_nvmlMemory_t._fields_} == {"total", "free", "used"}
    assert {"pid", "usedGpuMemory"} <= {name for name, _ in pynvml.c_nvmlProcessInfo_v3_t._fields_}


# The host: procfs and control groups.


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., HostBackend]:
    """Lays out files under proc/ and cgroup/ and reads them."""

    def lay_out(membership: str | None, files: dict[str, object], status: str = "VmHWM:\t 1 kB\n") -> HostBackend:
        own = tmp_path / "proc" / "self"
        own.mkdir(parents=True)
        (own / "status").write_text(status)
        (own / "clear_refs").touch()
        if membership is not None:
            (own / "cgroup").write_text(membership)
        for name, value in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        return HostBackend(tmp_path / "proc", tmp_path / "cgroup")

    return lay_out


@pytest.mark.parametrize(
    ("membership", "files", "total_mib", "free_mib"),
    [
        pytest.param(
            "0::/study\n",
            {
                "study/memory.max": 500 * MIB,
                "study/memory.current": 300 * MIB,
                "study/memory.stat": f"anon 5\ninactive_file {100 * MIB}",
            },
            *(500, 300),
            id="v2, with page cache",
        ),
        pytest.param(
            "0::/user/study\n",
            {
                "user/study/memory.max": "max",
                "user/study/memory.current": 10 * MIB,
                "user/memory.max": 400 * MIB,
                "user/memory.current": 150 * MIB,
                "memory.max": 600 * MIB,
                "memory.current": 550 * MIB,
            },
            *(400, 50),
            id="v2, limits of two ancestors",
        ),
        pytest.param(
            "0::/\n", {"memory.max": 500 * MIB, "memory.current": 200 * MIB}, 500, 300, id="v2, a container's root"
        ),
        pytest.param(
            "0::/../other\n",
            {"memory.max": 500 * MIB, "memory.current": 200 * MIB, "other/memory.max": MIB},
            *(500, 300),
            id="v2, outside of the namespace",
        ),
        pytest.param(
            "4:cpu,memory:/docker/1f\n0::/\n",
            {
                "memory/memory.limit_in_bytes": 500 * MIB,
                "memory/memory.usage_in_bytes": 300 * MIB,
                "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {50 * MIB}",
            },
            *(500, 250),
            id="v1, the host's path in a container",
        ),
        pytest.param(
            "5:cpu,cpuacct:/job\n4:memory:/job:1\n",
            {"memory/job:1/memory.limit_in_bytes": 200 * MIB, "memory/job:1/memory.usage_in_bytes": 50 * MIB},
            *(200, 150),
            id="v1, after other controllers, with a colon in its name",
        ),
        pytest.param(
            "3:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": 300 * MIB,
                "memory/job/memory.usage_in_bytes": 100 * MIB,
                "memory/memory.limit_in_bytes": 9223372036854771712,
                "memory/memory.usage_in_bytes": 900 * MIB,
            },
            *(300, 200),
            id="v1, no limit at the top",
        ),
        pytest.param(
            "0::/study\n",
            {"unified/study/memory.max": 300 * MIB, "unified/study/memory.current": 310 * MIB},
            *(300, 0),
            id="v2 beside v1, over its limit",
        ),
        pytest.param(
            "0::/study\n",
            {
                "study/memory.max": 300 * MIB,
                "study/memory.current": MIB,
                "study/memory.stat": f"inactive_file {2 * MIB}",
            },
            *(300, 300),
            id="v2, free is at most all",
        ),
    ],
)
def test_control_groups_limit_the_host(
    tree: Callable[..., HostBackend], membership: str, files: dict[str, object], total_mib: int, free_mib: int
) -> None:
    reading = tree(membership, files).read()
    assert (reading.total_bytes, reading.free_bytes) == (total_mib * MIB, free_mib * MIB)


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        (None, {}),
        ("", {}),
        ("nonsense\n", {}),
        ("0::/gone\n", {}),
        ("0::/\n", {"memory.max": "max", "memory.current": GIB}),
        ("0::/\n", {"memory.max": "?"}),
        ("0::/\n", {"memory.max": ""}),
        ("0::/\n", {"memory.max/a": "a folder where a file should be"}),
        ("5:cpu:/a\n", {"memory/memory.limit_in_bytes": MIB}),
    ],
)
def test_without_a_limit_the_machine_is_the_limit(
    tree: Callable[..., HostBackend], membership: str | None, files: dict[str, object]
) -> None:
    reading = tree(membership, files).read()
    assert reading.total_bytes == psutil.virtual_memory().total
    check(reading)


def test_a_limit_that_is_set_later_holds(tree: Callable[..., HostBackend], tmp_path: Path) -> None:
    backend = tree("0::/\n", {"memory.max": "max", "memory.current": 100 * MIB})
    assert backend.read().total_bytes > 400 * MIB
    (tmp_path / "cgroup" / "memory.max").write_text(f"{400 * MIB}\n")
    assert backend.read().free_bytes == 300 * MIB


def test_without_the_groups_usage_this_process_counts_alone(tree: Callable[..., HostBackend]) -> None:
    limit = psutil.virtual_memory().total - 4096  # just below, so that it binds and own memory fits
    backend = tree("0::/\n", {"memory.max": limit})
    for _ in range(2):
        reading = backend.read()
        assert reading.total_bytes == limit
        assert reading.free_bytes <= limit - reading.own_bytes
    [note] = backend.notes
    assert "memory.current cannot be read" in note


def test_the_peak_is_the_kernels_and_is_reset_there(tree: Callable[..., HostBackend], tmp_path: Path) -> None:
    backend = tree(None, {}, status=f"VmPeak:\t 9 kB\nVmHWM:\t {900 * GIB // 1024} kB\n")
    assert backend.read().peak_bytes == 900 * GIB
    backend.reset_peak()
    assert (tmp_path / "proc" / "self" / "clear_refs").read_text() == "5"
    assert backend.notes == ()


def test_a_peak_that_cannot_be_reset_is_the_highest_reading(
    tree: Callable[..., HostBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tree(None, {}, status=f"VmHWM:\t {900 * GIB // 1024} kB\n")
    (tmp_path / "proc" / "self" / "clear_refs").unlink()
    for _ in range(2):
        backend.reset_peak()
    [note] = backend.notes
    assert note.endswith("peaks between readings are missed: No such file or directory.")
    follow_resident_set(backend, monkeypatch)


def test_without_procfs_the_peak_is_the_highest_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = HostBackend(tmp_path / "none", tmp_path / "none")
    [note] = backend.notes
    assert "no peak of the resident set (VmHWM)" in note
    follow_resident_set(backend, monkeypatch)


def follow_resident_set(backend: HostBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([50, 70, 60, 40])
    memory = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=next(sizes)))
    monkeypatch.setattr(backend, "_process", memory)
    assert [backend.read().peak_bytes for _ in range(3)] == [50, 70, 70]
    backend.reset_peak()
    assert backend.read().peak_bytes == 40


def test_the_host_sees_a_tensor_come_and_go() -> None:
    backend = HostBackend()
    before = backend.read().own_bytes
    free = allocate_tensor(64 * MIB, "cpu")
    assert backend.read().own_bytes - before >= 60 * MIB
    backend.reset_peak()
    free()
    assert backend.own_bytes() - before <= 16 * MIB
    assert backend.read().peak_bytes - before >= 60 * MIB
    assert backend.holders() == []


# A budget in bytes, and the choice among all.


def test_a_budget_counts_the_neighbour_too() -> None:
    live = Live(live_bytes=30)
    budget = ByteBudget(live, 100)
    assert budget.read() == Reading(100, 70, 30, 0, 30)
    assert budget.holders() == []
    budget.neighbour_bytes = 50
    assert budget.read().free_bytes == 20
    assert budget.holders() == [Holder(0, "neighbour", 50)]
    live.live_bytes = 130
    assert budget.read().free_bytes == 0


def test_tensors_on_a_cpu_are_read_from_the_host() -> None:
    assert isinstance(backend_for(torch.device("cpu")), HostBackend)


def test_tensors_on_a_gpu_are_read_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    monkeypatch.setattr("sweeper.memory.readings.CudaBackend", made.append)
    backend_for(CUDA_0)
    assert made == [CUDA_0]
