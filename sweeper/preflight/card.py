"""The device that a plan is for: one that is named, the one that is there, or this machine's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweeper.config.schema import Config
from sweeper.errors import ModelError
from sweeper.memory.nvml import NvmlUnavailable, card_at
from sweeper.memory.readings import HostBackend
from sweeper.units import GIB


@dataclass(frozen=True)
class Card:
    """The device that is planned for."""

    name: str
    total_gib: float
    is_cuda: bool


def pick_card(config: Config) -> Card:
    """The card that the configuration names, or the one that is there, or this machine's memory.

    Raises:
        ModelError: if `engine.device` is a card that is not there, and none is named.
    """
    section, device = config.gpu, config.engine.device
    if device != "cpu":
        if section.memory_gib is not None:
            return Card(section.card or section.name, section.memory_gib, True)
        try:
            name, total_bytes = card_at(int(device.partition(":")[2] or 0) if device != "auto" else 0)
            return Card(name, total_bytes / GIB, True)
        except NvmlUnavailable as error:
            if device != "auto":
                raise ModelError(
                    f"engine.device: {device} is not on this machine ({error}); for one that is elsewhere, name the "
                    "card, such as gpu=rtx-4090"
                ) from error
    return Card("this machine's memory", HostBackend().read().total_bytes / GIB, False)


def dtype_of(config: Config, card: Card) -> Literal["float32", "bfloat16", "float16"]:
    if config.model.dtype != "auto":
        return config.model.dtype
    # Or float16, on a card without bfloat16: as many bytes.
    return "bfloat16" if card.is_cuda else "float32"
