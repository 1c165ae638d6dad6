"""What NVML says about one device: its memory, whoever holds it, and the electricity that it takes.

Numbers per process are a hint only: WSL, containers and MIG do not give them, or give 2⁶⁴ − 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from sweeper.units import GIB

_NOT_AVAILABLE = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE
# CUDA leaves out what the driver keeps for itself, a few percent. More than this apart, it is another device.
_SAME_TOTAL = 1.25
_REASONS = {
    "NVMLError_LibraryNotFound": "the NVML library, which comes with the NVIDIA driver, is not on this machine",
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is not loaded",
    "NVMLError_NoPermission": "this user has no permission to ask NVML",
    "NVMLError_NotSupported": "the device does not support the question",
    "NVMLError_Uninitialized": "other code in this process has shut NVML down",
    "NVMLError_LibRmVersionMismatch": "the NVML library and the loaded driver have different versions; "
    "restart the machine after the driver's update",
    "NVMLError_GpuIsLost": "the GPU has fallen off the bus; restart the machine",
}


NO_LIBRARY = "NVMLError_LibraryNotFound"


class NvmlUnavailable(Exception):  # noqa: N818 - a state of the machine that is dealt with, not an error for a user
    """NVML cannot be used, or not any more. The message is the reason, as a clause.

    Attributes:
        error: the name of NVML's own error, such as `NO_LIBRARY`; empty where it gave none.
    """

    def __init__(self, reason: str, error: str = "") -> None:
        super().__init__(reason)
        self.error = error


@dataclass(frozen=True)
class Holder:
    """A process that holds memory on the device."""

    pid: int
    name: str
    used_bytes: int | None  # None: the driver does not say


def _import_pynvml() -> Any:
    import pynvml

    return pynvml


class NvmlDevice:
    """A device, found by its UUID: NVML's order is not CUDA's under CUDA_VISIBLE_DEVICES or CUDA_DEVICE_ORDER.

    Args:
        uuid: as torch gives it, without `GPU-` or `MIG-` before it; either may be there.
        cuda_total_bytes: what CUDA says that the device has. NVML may give the whole card for the UUID of a
            MIG instance, and its free memory is not the instance's.
        load: imports pynvml.

    Raises:
        NvmlUnavailable: NVML cannot say how much memory this device has.
    """

    def __init__(self, uuid: str, cuda_total_bytes: int, load: Callable[[], Any] = _import_pynvml) -> None:
        self._api = _loaded(load)
        with _explained(self._api):
            self._api.nvmlInit()  # never shut down: NVML counts its users, and this one lasts as long as the process
            self._handle = self._find(uuid)
            self.driver = str(self._api.nvmlSystemGetDriverVersion())
        total, _ = self.memory()
        if not 1 / _SAME_TOTAL <= total / max(1, cuda_total_bytes) <= _SAME_TOTAL:
            raise NvmlUnavailable(
                f"its device of UUID {uuid} has {total / GIB:.1f} GiB, CUDA's has {cuda_total_bytes / GIB:.1f} GiB, "
                "as where CUDA sees one MIG instance of the card"
            )

    def memory(self) -> tuple[int, int]:
        """The device's total and free bytes, all processes taken together.

        Raises:
            NvmlUnavailable: it failed, or gave values that cannot be.
        """
        with _explained(self._api):
            memory = self._api.nvmlDeviceGetMemoryInfo(self._handle)
        total, free, used = int(memory.total), int(memory.free), int(memory.used)
        if total == _NOT_AVAILABLE or free == _NOT_AVAILABLE or used == _NOT_AVAILABLE:
            raise NvmlUnavailable("it does not give this device's memory (N/A)")
        if total <= 0 or not 0 <= used <= total or not 0 <= free <= total:
            raise NvmlUnavailable(f"it gives a memory that cannot be (total={total}, used={used}, free={free})")
        return total, free

    def energy_mj(self) -> int:
        """Millijoules that the device has taken since the driver was loaded.

        Raises:
            NvmlUnavailable: it does not count them (before Volta, or on MIG), or failed.
        """
        with _explained(self._api):
            energy_mj = int(self._api.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        if energy_mj == _NOT_AVAILABLE:
            raise NvmlUnavailable("it does not give this device's energy (N/A)")
        return energy_mj

    def power_mw(self) -> int:
        """Milliwatts that the device draws; on Ampere and later the mean of the last second.

        Raises:
            NvmlUnavailable: it does not say, or failed.
        """
        with _explained(self._api):
            power_mw = int(self._api.nvmlDeviceGetPowerUsage(self._handle))
        if power_mw == 2**32 - 1:  # NVML_VALUE_NOT_AVAILABLE_uint
            raise NvmlUnavailable("it does not give this device's power (N/A)")
        return power_mw

    def holders(self) -> list[Holder]:
        """Other processes on the device, biggest first, those of unknown size last.

        In a container NVML may give the host's process ids: this process is then among them, as `unknown`.

        Raises:
            NvmlUnavailable: it does not list them.
        """
        with _explained(self._api):
            processes = list(self._api.nvmlDeviceGetComputeRunningProcesses(self._handle))
        try:
            with _explained(self._api):
                processes += self._api.nvmlDeviceGetGraphicsRunningProcesses(self._handle)
        except NvmlUnavailable:
            pass  # MIG instances and data-centre cards have none
        used_bytes: dict[int, int | None] = {}
        for process in processes:  # one that computes and draws is in both lists, with the same size
            pid, used = int(process.pid), process.usedGpuMemory
            if used is None or int(used) >= _NOT_AVAILABLE:
                used_bytes.setdefault(pid, None)
            else:
                used_bytes[pid] = max(used_bytes.get(pid) or 0, int(used))
        used_bytes.pop(os.getpid(), None)
        ranked = sorted(used_bytes.items(), key=lambda item: -1 if item[1] is None else item[1], reverse=True)
        return [Holder(pid, _name(pid), used) for pid, used in ranked]

    def _find(self, uuid: str) -> Any:
        names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
        for name in names:
            try:
                return self._api.nvmlDeviceGetHandleByUUID(name)
            except self._api.NVMLError as error:
                # Older drivers call a UUID that they do not know an invalid argument.
                if type(error).__name__ not in ("NVMLError_NotFound", "NVMLError_InvalidArgument"):
                    raise
        raise NvmlUnavailable(f"it knows no device of the UUID {' or '.join(names)}")


@dataclass(frozen=True)
class Card:
    """A device as NVML lists it."""

    index: int
    uuid: str
    name: str
    total_bytes: int


def cards(load: Callable[[], Any] = _import_pynvml) -> list[Card]:
    """Every device of this machine, without CUDA.

    Raises:
        NvmlUnavailable: NVML cannot be used.
    """
    api = _loaded(load)
    with _explained(api):
        api.nvmlInit()
        handles = [api.nvmlDeviceGetHandleByIndex(index) for index in range(api.nvmlDeviceGetCount())]
        return [
            Card(
                index,
                str(api.nvmlDeviceGetUUID(handle)),
                str(api.nvmlDeviceGetName(handle)),
                int(api.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for index, handle in enumerate(handles)
        ]


@dataclass(frozen=True)
class Traits:
    """What a card is beside its memory.

    Attributes:
        capability: CUDA's compute capability; None: NVML does not say.
        instances: the UUIDs of its MIG instances that can be seen here; None: it is not in MIG mode.
    """

    card: Card
    capability: tuple[int, int] | None
    instances: tuple[str, ...] | None


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver.

    Attributes:
        cuda: the newest CUDA that it knows, major and minor.
    """

    version: str
    cuda: tuple[int, int]
    cards: tuple[Traits, ...]


def driver(load: Callable[[], Any] = _import_pynvml) -> Driver:
    """The driver and all its cards, without CUDA.

    Raises:
        NvmlUnavailable: NVML cannot be used.
    """
    known = cards(load)
    api = load()
    with _explained(api):
        number = int(api.nvmlSystemGetCudaDriverVersion())  # 12040 is 12.4
        version = str(api.nvmlSystemGetDriverVersion())
        handles = [api.nvmlDeviceGetHandleByIndex(card.index) for card in known]
    traits = [
        Traits(card, _capability(api, one), _instances(api, one)) for card, one in zip(known, handles, strict=True)
    ]
    return Driver(version, (number // 1000, number % 1000 // 10), tuple(traits))


def _capability(api: Any, handle: Any) -> tuple[int, int] | None:
    try:
        with _explained(api):
            major, minor = api.nvmlDeviceGetCudaComputeCapability(handle)
    except NvmlUnavailable:
        return None
    return int(major), int(minor)


def _instances(api: Any, handle: Any) -> tuple[str, ...] | None:
    found: list[str] = []
    try:
        with _explained(api):
            if not api.nvmlDeviceGetMigMode(handle)[0]:
                return None
            places = range(api.nvmlDeviceGetMaxMigDeviceCount(handle))
    except NvmlUnavailable:  # most cards cannot be cut up
        return None
    for place in places:
        try:
            with _explained(api):
                found.append(str(api.nvmlDeviceGetUUID(api.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))))
        except NvmlUnavailable:  # there is none at this place, or it is not for this user
            continue
    return tuple(found)


def card_at(index: int, load: Callable[[], Any] = _import_pynvml) -> tuple[str, int]:
    """The name and the total bytes of the device that CUDA calls `cuda:index`, without CUDA.

    CUDA_VISIBLE_DEVICES is heeded; where it is not set, or has numbers, cards of different models may be in another
    order than CUDA's (CUDA_DEVICE_ORDER=PCI_BUS_ID makes them one).

    Raises:
        NvmlUnavailable: there is no such device, or NVML cannot be used.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index)] * (index + 1) if visible is None else [name.strip() for name in visible.split(",") if name]
    if index >= len(names):
        raise NvmlUnavailable(f"CUDA_VISIBLE_DEVICES={visible} has no device {index}")
    api = _loaded(load)
    with _explained(api):
        api.nvmlInit()
        by_number = names[index].isdecimal()
        find = api.nvmlDeviceGetHandleByIndex if by_number else api.nvmlDeviceGetHandleByUUID
        handle = find(int(names[index]) if by_number else names[index])
        return str(api.nvmlDeviceGetName(handle)), int(api.nvmlDeviceGetMemoryInfo(handle).total)


def _loaded(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ImportError as error:
        raise NvmlUnavailable(f"pynvml cannot be imported ({error}); install nvidia-ml-py") from error


@contextmanager
def _explained(api: Any) -> Iterator[None]:
    """Turns pynvml's errors into `NvmlUnavailable`."""
    # The second is raised where the driver is older than pynvml, and is no NVMLError.
    kinds = (api.NVMLError, getattr(api, "NVMLLibraryMismatchError", api.NVMLError))
    try:
        yield
    except kinds as error:
        name = type(error).__name__
        raise NvmlUnavailable(_REASONS.get(name, f"it failed with {name} ({error})"), name) from error


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except (psutil.Error, ValueError):  # gone, not ours to see, or an id of another namespace
        return "unknown"
