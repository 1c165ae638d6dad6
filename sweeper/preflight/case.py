"""What is asked of a prediction, and what it answers; plain values that go through JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Terms = dict[str, int]  # bytes by what they are for
STAYING = ("weights_4bit", "weights_other", "adapters")


def hashable(targets: Any) -> Any:
    """A choice of target modules that JSON made a list of."""
    return tuple(targets) if isinstance(targets, list) else targets


@dataclass(frozen=True)
class ModelShape:
    """A base as its configuration says it, with what decides its memory.

    Attributes:
        config: of transformers, as plain values, with `model_type`.
        targets: all choices of target modules that a study has.
        is_on_host: whether it is on a CPU, some of whose kernels are its own.
    """

    config: Mapping[str, Any]
    dtype: Literal["float32", "bfloat16", "float16"]
    quant: Literal["nf4", "none"]
    targets: tuple[Any, ...] = ("all-linear",)
    is_on_host: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """A pack of like slots, and one chunk of it."""

    rank: int
    seq: int  # tokens of each row, padding included
    rows: int = 1  # of each slot
    slots: int = 1
    answer_tokens: int = 1  # of each row, with a loss
    target_modules: Any = "all-linear"
    is_checkpointed: bool = True
    has_dropout: bool = False
    optimizer_state: Literal["device", "host", "8bit"] = "device"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Extent:
    """The corners of what a study may ask for: between them the formula is to hold."""

    ranks: tuple[int, int]
    seqs: tuple[int, int]  # of the shortest and the longest row, in tokens
    answer_tokens: int  # of the longest answer
    most_tokens: int  # in one chunk
    has_dropout: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Peaks:
    """The most that is live in each phase of a step, by what it is for, without what the device itself takes.

    The phases: `forward`, `head`, `backward`; of scoring: `score`, `choose`.
    """

    phases: Mapping[str, Terms]

    def transient_bytes(self, phase: str) -> int:
        """What a phase's peak has beyond what stays."""
        return sum(value for name, value in self.phases[phase].items() if name not in STAYING)
