"""What a device has taken from the wall: measured where it can be, else what the person says that it draws.

A measurement that fails on the way, or that there is not, is replaced by the next best, and that is said once: the
electricity of a study is never a reason to stop it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import torch

from sweeper.config.schema import Config
from sweeper.memory.nvml import NvmlDevice, NvmlUnavailable

logger = logging.getLogger(__name__)
POWERCAP = Path("/sys/class/powercap")
_HOW = "gpu.watts=NUMBER says what the device draws"


class _Source(Protocol):
    def taken_mj(self) -> float:
        """Millijoules since it was made, or since the time that it was made with."""


class _Counter:
    """A counter of the hardware.

    Args:
        wraps_at: where it begins again at zero; None: it does so only when the driver is loaded anew.
    """

    def __init__(self, read: Callable[[], int], unit_mj: float, wraps_at: int | None = None) -> None:
        self._read, self._unit_mj, self._wraps_at = read, unit_mj, wraps_at
        self._last, self._taken = read(), 0

    def taken_mj(self) -> float:
        now = self._read()
        self._taken += now - self._last if now >= self._last else now + (self._wraps_at or self._last) - self._last
        self._last = now
        return self._taken * self._unit_mj


class _Sum:
    def __init__(self, parts: Sequence[_Source]) -> None:
        self._parts = parts

    def taken_mj(self) -> float:
        return sum(part.taken_mj() for part in self._parts)


class _Power:
    """Readings of the power, each with the mean of itself and the one before for the time between."""

    def __init__(self, read_mw: Callable[[], float], clock_s: Callable[[], float], since_s: float) -> None:
        self._read_mw, self._clock_s = read_mw, clock_s
        self._last_s, self._last_mw, self._taken_mj = since_s, read_mw(), 0.0

    def taken_mj(self) -> float:
        now_s, now_mw = self._clock_s(), self._read_mw()
        self._taken_mj += (now_mw + self._last_mw) / 2 * (now_s - self._last_s)
        self._last_s, self._last_mw = now_s, now_mw
        return self._taken_mj


_Way = tuple[str, Callable[[float], _Source]]  # in words, and what makes it, given the time since which it counts


class _Energy:
    """Millijoules since it was made, by the first of several ways that works."""

    def __init__(self, ways: Sequence[_Way], clock_s: Callable[[], float]) -> None:
        self._ways, self._clock_s = list(ways), clock_s
        self._source: _Source | None = None
        self._before_mj = self._last_mj = 0.0  # by the sources before this one, and by all of them when last read
        self._read_s = clock_s()
        self.by, self.reasons = self._next()

    def _next(self) -> tuple[str | None, dict[str, str]]:
        """Goes over to the next way that works: its words, and why those before it do not, each reason once."""
        reasons: dict[str, str] = {}
        self._before_mj, self._source = self._last_mj, None
        while self._ways:
            by, make = self._ways.pop(0)
            try:
                self._source = make(self._read_s)
            except (NvmlUnavailable, OSError, ValueError) as error:
                reasons.setdefault(str(error), by)
            else:
                return by, reasons
        return None, reasons

    def __call__(self) -> int:
        while self._source is not None:
            try:
                self._last_mj = self._before_mj + self._source.taken_mj()
            except (NvmlUnavailable, OSError, ValueError) as error:
                before, (self.by, _) = self.by, self._next()
                now = f"by {self.by}" if self.by else f"not at all; {_HOW}"
                logger.warning("electricity is no longer counted by %s (%s), but %s", before, error, now)
            else:
                self._read_s = self._clock_s()
                break
        return round(self._last_mj)


def energy_meter(
    config: Config,
    device: torch.device,
    nvml: Callable[[torch.device], NvmlDevice] | None = None,
    powercap: Path = POWERCAP,
    clock_s: Callable[[], float] = time.monotonic,
) -> tuple[Callable[[], int] | None, str]:
    """What measures the electricity that a device takes, whoever uses it.

    On CUDA that is NVML's energy counter (Volta and later), or its power readings; on a CPU the processor's own
    counters (RAPL), where they may be read; else `gpu.watts`.

    Returns:
        Millijoules since now, or None where there is no way; and a sentence for the person that says how.
    """
    ways: list[_Way] = []
    if device.type == "cuda":
        card = cache(lambda: (nvml or _nvml_device)(device))
        ways += [
            ("NVML's energy counter of the card", lambda since_s: _Counter(card().energy_mj, 1.0)),
            ("NVML's power readings of the card", lambda since_s: _Power(card().power_mw, clock_s, since_s)),
        ]
    else:
        ways.append(("the energy counters of the processor (RAPL)", lambda since_s: _rapl(powercap)))
    if (watts := config.gpu.watts) is not None:
        always = partial(_Power, lambda: watts * 1e3, clock_s)
        ways.append((f"gpu.watts={watts:g} at all times", always))
    energy = _Energy(ways, clock_s)
    why = "".join(f"; not by {by}: {reason}" for reason, by in energy.reasons.items())
    if energy.by is None:
        return None, f"Electricity is not counted{why}. {_HOW}."
    return energy, f"Electricity is counted by {energy.by}{why}."


def _nvml_device(device: torch.device) -> NvmlDevice:
    properties = torch.cuda.get_device_properties(device)
    return NvmlDevice(str(properties.uuid), properties.total_memory)


def _rapl(powercap: Path) -> _Source:
    """The counters of all processors of this machine, without those of their parts, which are in them."""
    zones = sorted(powercap.glob("intel-rapl:*"))
    packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
    if not packages:
        raise FileNotFoundError(f"there are none in {powercap}")
    return _Sum(
        [
            _Counter(partial(_number, zone / "energy_uj"), 1e-3, _number(zone / "max_energy_range_uj"))
            for zone in packages
        ]
    )


def _number(file: Path) -> int:
    return int(file.read_text())
