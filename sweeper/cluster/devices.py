"""The GPUs that workers may have, found without CUDA: the launcher must not open a context on any."""

from __future__ import annotations

import importlib.util
import os
import runpy
from dataclasses import dataclass
from pathlib import Path

from sweeper.memory.nvml import Card, NvmlDevice, NvmlUnavailable, cards
from sweeper.units import GIB


@dataclass(frozen=True)
class Device:
    """One GPU, or an instance of one.

    Attributes:
        name: as CUDA_VISIBLE_DEVICES takes it.
        card: what NVML says of it; None where that says nothing.
    """

    name: str
    card: Card | None

    def __str__(self) -> str:
        return f"{self.card.name} ({self.name})" if self.card is not None else f"GPU {self.name}"

    def held_by(self, pids: set[int]) -> list[str]:
        """Which of these processes, running or not, hold memory on the device, as far as NVML tells; in words."""
        if self.card is None:
            return []
        try:
            held = [one for one in NvmlDevice(self.card.uuid, self.card.total_bytes).holders() if one.pid in pids]
        except NvmlUnavailable:
            return []
        return [
            f"process {one.pid} ({one.used_bytes / GIB:.1f} GiB)" if one.used_bytes else f"process {one.pid}"
            for one in held
        ]


def visible(device: str) -> list[Device]:
    """The GPUs that a study's workers share; none where they run on the CPU, or `device` says which one is meant.

    Args:
        device: `engine.device`.
    """
    if device not in ("auto", "cuda") or not _can_torch():
        return []
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        known = cards()
    except NvmlUnavailable:
        # Without NVML, what the environment lists is all that is known.
        return [Device(name, None) for name in _names(listed or "")]
    if listed is None:
        return [Device(card.uuid, card) for card in known]
    return [
        Device(name, next((one for one in known if name == str(one.index) or one.uuid.startswith(name)), None))
        for name in _names(listed)
    ]


def _names(listed: str) -> list[str]:
    """What a list of devices names; CUDA reads it up to the first that it does not know."""
    names = [name.strip() for name in listed.split(",")]
    end = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
    return names[:end]


def _can_torch() -> bool:
    """Whether the torch that is installed is a build for CUDA; it takes seconds to import."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    return runpy.run_path(str(Path(spec.origin).with_name("version.py"))).get("cuda") is not None
