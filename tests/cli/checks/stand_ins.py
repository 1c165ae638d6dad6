"""A machine that is not there: NVML's module, and what torch says of CUDA."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Any

import pynvml
import pytest
import torch

import sweeper.models.base  # noqa: F401  (bitsandbytes looks for a device when it is imported, and would find one)
from sweeper.units import GIB


@dataclass(frozen=True)
class Card:
    name: str = "NVIDIA GeForce RTX 4090"
    gib: float = 24.0
    capability: tuple[int, int] | None = (8, 9)  # None: NVML does not say
    uuid: str = "GPU-aaaa"
    instances: tuple[str, ...] | None = None  # None: not in MIG mode


class Nvml(types.ModuleType):
    """pynvml over made-up cards; `failure` is what its start raises."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *cards: Card, driver: str = "580.95", cuda: int = 13000, failure: int | None = None) -> None:
        super().__init__("pynvml")
        self.cards, self.version, self.cuda, self.failure = cards, driver, cuda, failure

    def nvmlInit(self) -> None:  # noqa: N802
        if self.failure is not None:
            raise pynvml.NVMLError(self.failure)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetUUID(self, handle: Card | str) -> str:  # noqa: N802
        return handle if isinstance(handle, str) else handle.uuid

    def nvmlDeviceGetName(self, handle: Card) -> str:  # noqa: N802
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: Card) -> Any:  # noqa: N802
        return types.SimpleNamespace(total=int(handle.gib * GIB))

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return self.version

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return self.cuda

    def nvmlDeviceGetCudaComputeCapability(self, handle: Card) -> tuple[int, int]:  # noqa: N802
        if handle.capability is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return handle.capability

    def nvmlDeviceGetMigMode(self, handle: Card) -> list[int]:  # noqa: N802
        if not handle.name.startswith("NVIDIA H100"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(handle.instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Card) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Card, place: int) -> str:  # noqa: N802
        if handle.instances is None or place >= len(handle.instances):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return handle.instances[place]


def machine(
    patch: pytest.MonkeyPatch,
    *cards: Card,
    torch_cuda: str | None = "13.0",
    is_available: bool = True,
    visible: str | None = None,
    **nvml: Any,
) -> None:
    """Makes this process see a machine with these cards.

    Args:
        torch_cuda: what torch is built for.
        is_available: whether torch finds a device.
        visible: CUDA_VISIBLE_DEVICES.
        nvml: of `Nvml`.
    """
    patch.setitem(sys.modules, "pynvml", Nvml(*cards, **nvml))
    patch.setattr(torch.version, "cuda", torch_cuda)
    patch.setattr(torch.cuda, "is_available", lambda: is_available)
    patch.setattr(torch.cuda, "device_count", lambda: len(cards))
    patch.setattr(torch.cuda, "get_device_name", lambda index: cards[index].name)
    patch.setattr(torch.cuda, "get_device_capability", lambda index: cards[index].capability)
    patch.setattr(torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(total_memory=24 * GIB))
    patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "sm_90a", "sm_120"])
    patch.setattr("sweeper.models.base.best_dtype", lambda device: torch.bfloat16)
    patch.setattr("platform.release", lambda: "6.8.0-generic")
    patch.setattr("sweeper.cli.checks.gpu.CONTAINER_MARKS", ())
    if visible is None:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        patch.setenv("CUDA_VISIBLE_DEVICES", visible)
