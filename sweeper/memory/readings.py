"""How much memory a device has, and who holds it: one interface over CUDA, host memory and a budget in bytes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import psutil
import torch

from sweeper.memory.nvml import Holder, NvmlDevice, NvmlUnavailable

__all__ = ["ByteBudget", "CudaBackend", "Holder", "HostBackend", "MemoryBackend", "Reading", "backend_for"]


@dataclass(frozen=True)
class Reading:
    """The memory of a device at one moment."""

    total_bytes: int  # what the device has, or the host or its cgroup allows
    free_bytes: int  # free now, for anyone; what this process's allocator caches is not free
    own_bytes: int  # what this process's tensors hold, or its resident set on a host
    cached_bytes: int  # what its allocator holds beyond own_bytes and can use without asking the device
    peak_bytes: int  # the highest own_bytes since the last reset_peak

    @property
    def available_bytes(self) -> int:
        """What this process can still take."""
        return self.free_bytes + self.cached_bytes


class MemoryBackend(ABC):
    """Reads one device. `read` never raises: what cannot be read is estimated, and noted."""

    name: str
    is_exact = True  # whether a peak is that of the tensors, to the byte
    counts_runtime = False  # whether `own_bytes` has `runtime_bytes` in it
    driver = ""  # whose versions differ in what they take
    workspace_bytes = 0  # of `own_bytes`, what libraries such as cuBLAS keep; known after `runtime_bytes`
    notes: tuple[str, ...] = ()  # what could not be read and why, a sentence each, for the log

    @abstractmethod
    def read(self) -> Reading:
        """The memory now."""

    @abstractmethod
    def own_bytes(self) -> int:
        """The reading's `own_bytes` alone, which costs less."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Starts `peak_bytes` again from what is held now."""

    @abstractmethod
    def runtime_bytes(self) -> int:
        """What this process holds beside tensors: libraries, a CUDA context. Ask first before there are any."""

    def limit(self, size_bytes: int) -> None:  # noqa: B027 (few allocators can)
        """Has this process's allocator hold no more than that, cached blocks included, where it can be told to."""

    def holders(self) -> list[Holder]:
        """Other processes on the device, biggest first; none where it cannot be known."""
        return []

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes = (*self.notes, sentence)


def backend_for(device: torch.device) -> MemoryBackend:
    """What reads the memory that tensors on `device` take."""
    return CudaBackend(device) if device.type == "cuda" else HostBackend()


class CudaApi(Protocol):
    """The part of `torch.cuda` that is read."""

    def current_device(self) -> int: ...
    def get_device_properties(self, device: Any, /) -> Any: ...
    def mem_get_info(self, device: Any, /) -> tuple[int, int]: ...
    def memory_stats(self, device: Any, /) -> dict[str, Any]: ...
    def reset_peak_memory_stats(self, device: Any, /) -> None: ...
    def synchronize(self, device: Any, /) -> None: ...
    def set_per_process_memory_fraction(self, fraction: float, device: Any, /) -> None: ...


def multiply(device: torch.device) -> None:
    """Has cuBLAS take the workspaces that it keeps, for this thread and for autograd's.

    They come from torch's allocator at the first product of each (on an H200 64 MiB in all, with torch 2.11).
    """
    with torch.enable_grad():
        factor = torch.ones(64, 64, device=device, requires_grad=True)
        (factor @ factor).sum().backward()  # type: ignore[no-untyped-call]


class CudaBackend(MemoryBackend):
    """The device by NVML, or by `torch.cuda.mem_get_info` where NVML is not usable; tensors by torch's allocator."""

    def __init__(
        self,
        device: torch.device,
        cuda: CudaApi = torch.cuda,
        nvml: Callable[[str, int], NvmlDevice] = NvmlDevice,
        warm_up: Callable[[torch.device], None] = multiply,
    ) -> None:
        self._cuda = cuda
        self._warm_up = warm_up
        self._is_warm = False
        # Resolved here: the current device belongs to a thread, and a watcher reads from another one.
        self._device = torch.device("cuda", cuda.current_device() if device.index is None else device.index)
        properties = cuda.get_device_properties(self._device)
        self._total_bytes: int = properties.total_memory
        self._last: tuple[int, int] = (self._total_bytes, 0)
        self._nvml: NvmlDevice | None = None
        self.name = "torch"
        try:
            self._nvml = nvml(str(properties.uuid), properties.total_memory)
            self.name, self.driver = "nvml", self._nvml.driver
        except NvmlUnavailable as error:
            self._note(f"NVML is not used, so other processes on the device are not named: {error}.")

    def read(self) -> Reading:
        # One snapshot of the allocator: three questions could be answered on two sides of an allocation.
        stats = self._cuda.memory_stats(self._device)
        own: int = stats.get("allocated_bytes.all.current", 0)
        peak: int = stats.get("allocated_bytes.all.peak", 0)
        reserved: int = stats.get("reserved_bytes.all.current", 0)
        self._last = total, free = self._device_memory()
        return Reading(total, free, own, max(0, reserved - own), max(peak, own))

    def own_bytes(self) -> int:
        own: int = self._cuda.memory_stats(self._device).get("allocated_bytes.all.current", 0)
        return own

    def _device_memory(self) -> tuple[int, int]:
        if self._nvml is not None:
            try:
                return self._nvml.memory()
            except NvmlUnavailable as error:
                self._nvml, self.name = None, "torch"
                self._note(f"NVML failed, so torch is asked from now on: {error}.")
        try:
            free, total = self._cuda.mem_get_info(self._device)
        except RuntimeError as error:  # a kernel has failed, and every call repeats that: training will say so
            self._note(f"CUDA does not give the device's memory, so the last reading stands: {_first_line(error)}.")
            return self._last
        return total, min(free, total)

    def reset_peak(self) -> None:
        self._cuda.reset_peak_memory_stats(self._device)

    def limit(self, size_bytes: int) -> None:
        self._cuda.set_per_process_memory_fraction(max(0.0, min(1.0, size_bytes / self._total_bytes)), self._device)

    def runtime_bytes(self) -> int:
        self._cuda.synchronize(self._device)  # that makes the context, if there is none yet
        if not self._is_warm:
            before_bytes = self.own_bytes()
            self._warm_up(self._device)
            self._cuda.synchronize(self._device)
            self._is_warm, self.workspace_bytes = True, max(0, self.own_bytes() - before_bytes)
        reading = self.read()
        # Where the driver does not say what others hold, all of it counts as this process's own.
        others = sum(holder.used_bytes or 0 for holder in self.holders())
        taken = reading.total_bytes - reading.free_bytes - reading.own_bytes - reading.cached_bytes
        return max(0, taken - others)

    def holders(self) -> list[Holder]:
        if self._nvml is None:
            return []
        try:
            return self._nvml.holders()
        except NvmlUnavailable as error:
            self._note(f"NVML does not list the processes on the device: {error}.")
            return []


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


# A control group's limit and usage, and the key in its memory.stat of page cache that the kernel can drop.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


class HostBackend(MemoryBackend):
    """This process's resident set, in what the machine and its control groups allow.

    Args:
        proc: where procfs is mounted; without it (macOS) only peaks at readings are seen.
        cgroups: where the control groups are mounted.
    """

    name = "host"
    is_exact = False
    counts_runtime = True

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._process = psutil.Process()
        self._self = proc / "self"
        self._cgroups = list(_cgroups(self._self / "cgroup", cgroups))
        self._highest_bytes = 0  # of the readings since the last reset
        self._has_kernel_peak = self._kernel_peak_bytes() is not None
        if not self._has_kernel_peak:
            self._note("The kernel gives no peak of the resident set (VmHWM), so peaks between readings are missed.")

    def read(self) -> Reading:
        own = self.own_bytes()
        host = psutil.virtual_memory()
        total, free = host.total, host.available
        for folder, (limit_file, usage_file, reclaimable) in self._cgroups:
            limit = _number(folder / limit_file)
            if limit is None or limit >= host.total:
                continue
            used = _number(folder / usage_file)
            if used is None:
                where = folder / usage_file
                self._note(f"The file {where} cannot be read, so this process counts as alone in its control group.")
                used = own
            total = min(total, limit)
            free = min(free, limit - used + (_field(folder / "memory.stat", reclaimable) or 0))
        self._highest_bytes = max(self._highest_bytes, own)
        kernel_peak = self._kernel_peak_bytes() if self._has_kernel_peak else None
        # The kernel batches its counters per thread, so its peak can be some pages below a reading.
        peak = self._highest_bytes if kernel_peak is None else max(kernel_peak, own)
        return Reading(total, max(0, min(free, total)), own, 0, peak)

    def own_bytes(self) -> int:
        return self._process.memory_info().rss

    def reset_peak(self) -> None:
        self._highest_bytes = 0
        if not self._has_kernel_peak:
            return
        try:
            descriptor = os.open(self._self / "clear_refs", os.O_WRONLY)
            try:
                os.write(descriptor, b"5")  # proc(5): the peak starts again from the resident set of now
            finally:
                os.close(descriptor)
        except OSError as error:
            self._has_kernel_peak = False
            reason = error.strerror or type(error).__name__
            self._note(f"The kernel's peak cannot be reset, so peaks between readings are missed: {reason}.")

    def runtime_bytes(self) -> int:
        return self.own_bytes()

    def _kernel_peak_bytes(self) -> int | None:
        peak_kib = _field(self._self / "status", "VmHWM:")  # "kB" in procfs is KiB
        return None if peak_kib is None else peak_kib * 1024


def _cgroups(membership: Path, root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The groups that this process is in and everything above them: the limit of each holds."""
    for line in (_text(membership) or "").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        files, mounts = (_V1, [root / "memory"]) if controllers else (_V2, [root, root / "unified"])
        inner = PurePosixPath(path.lstrip("/"))
        if ".." in inner.parts:  # outside of what this namespace sees
            inner = PurePosixPath()
        # In a container the path may be the host's, and only the mount itself is there.
        for folder in (mount / part for mount in mounts for part in (inner, *inner.parents)):
            if _text(folder / files[0]) is not None:
                yield folder, files


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _field(path: Path, key: str) -> int | None:
    for line in (_text(path) or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == key and words[1].isdecimal():
            return int(words[1])
    return None


class Live(Protocol):
    """Something that counts the bytes of live tensors."""

    live_bytes: int
    peak_bytes: int

    def reset_peak(self) -> None: ...


class ByteBudget(MemoryBackend):
    """A device made of a number: for tests, and for a ceiling where there is no GPU."""

    name = "bytes"

    def __init__(self, live: Live, total_bytes: int) -> None:
        self.live = live
        self.total_bytes = total_bytes
        self.neighbour_bytes = 0  # what another process holds on the same card; set it to play one

    def read(self) -> Reading:
        own, peak = self.live.live_bytes, self.live.peak_bytes
        free = max(0, self.total_bytes - own - self.neighbour_bytes)
        return Reading(self.total_bytes, free, own, 0, max(own, peak))

    def own_bytes(self) -> int:
        return self.live.live_bytes

    def reset_peak(self) -> None:
        self.live.reset_peak()

    def runtime_bytes(self) -> int:
        return 0

    def holders(self) -> list[Holder]:
        return [Holder(0, "neighbour", self.neighbour_bytes)] if self.neighbour_bytes > 0 else []
