"""Where a bucket's moments are between two optimizer steps: `optimizer.state`.

`device` keeps them beside the weights. `host` keeps them in host memory and brings them in block by block, for
the step alone: what QLoRA's paged optimizer does when memory is short, but planned instead of at a page fault.
`8bit` keeps a byte for each value, with bitsandbytes' dynamic blockwise quantisation (arXiv:2110.02861).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from bitsandbytes import functional as quantisation
from torch import Tensor

from sweeper.memory.formula import QUANTISED_BLOCK

OptimizerState = Literal["device", "host", "8bit"]
KINDS = ("exp_avg", "exp_avg_sq")  # AdamW's names
# exp_avg_sq has no sign: all of its levels are above zero.
_LEVELS = {kind: quantisation.create_dynamic_map(signed=kind == "exp_avg").tolist() for kind in KINDS}
# bitsandbytes' lowest level is -0.993: a block whose largest value is negative would shrink each time that it is
# stored. With -1 there, storing what was read keeps all but the lowest levels, and a trial may be moved at any time.
_LEVELS["exp_avg"][0] = -1.0


class Moments(ABC):
    """Both moments of a bucket, `(K, P)` each."""

    @abstractmethod
    def row(self, kind: str, slot: int) -> Tensor:
        """One moment of one slot, `(P,)`, at full precision; a view where it is kept so."""

    @abstractmethod
    def set_row(self, kind: str, slot: int, values: Tensor) -> None:
        """Takes a changed `row` back."""

    @abstractmethod
    def block(self, kind: str, columns: slice, scratch: Tensor | None) -> Tensor:
        """A block of one moment on the device; in `scratch` where it is not there already. Changed, it is stored."""

    @abstractmethod
    def store(self, kind: str, columns: slice, values: Tensor, is_skipped: Tensor) -> None:
        """Takes a changed block back. Allocates nothing that lasts, unless it is staged until `commit`.

        Args:
            is_skipped: `(K, 1)`, the slots whose values have not changed.
        """

    @abstractmethod
    def commit(self) -> None:
        """Puts what is staged in its place. Allocates nothing."""

    @abstractmethod
    def forget(self) -> None:
        """Drops what is staged."""

    is_staged = False  # whether stored blocks wait for `commit`
    needs_scratch = True


class DeviceMoments(Moments):
    """Beside the weights; changed in place."""

    needs_scratch = False

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self._flat = {kind: torch.zeros(shape, dtype=dtype, device=device) for kind in KINDS}

    def row(self, kind: str, slot: int) -> Tensor:
        return self._flat[kind][slot]

    def set_row(self, kind: str, slot: int, values: Tensor) -> None:
        """It was changed in place."""

    def block(self, kind: str, columns: slice, scratch: Tensor | None) -> Tensor:
        return self._flat[kind][:, columns]

    def store(self, kind: str, columns: slice, values: Tensor, is_skipped: Tensor) -> None:
        """It was changed in place."""

    def commit(self) -> None:
        """Nothing is staged."""

    def forget(self) -> None:
        """Nothing is staged."""


class HostMoments(DeviceMoments):
    """In host memory, page-locked where the device is CUDA; a block at a time is on the device."""

    needs_scratch = True

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        is_locked = device.type == "cuda"
        self._flat = {kind: torch.zeros(shape, dtype=dtype, pin_memory=is_locked) for kind in KINDS}

    def block(self, kind: str, columns: slice, scratch: Tensor | None) -> Tensor:
        assert scratch is not None
        return scratch.copy_(self._flat[kind][:, columns])

    def store(self, kind: str, columns: slice, values: Tensor, is_skipped: Tensor) -> None:
        self._flat[kind][:, columns].copy_(values)


class QuantisedMoments(Moments):
    """A byte for each value. The blocks that share a scale begin anew with each slot, so no slot sees another's."""

    is_staged = True

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        slots, columns = shape
        assert columns % QUANTISED_BLOCK == 0  # the bucket pads for it
        self._dtype = dtype
        self._codes = {kind: torch.tensor(levels, device=device) for kind, levels in _LEVELS.items()}
        self._bytes = {kind: torch.zeros(shape, dtype=torch.uint8, device=device) for kind in KINDS}
        # All values of a block whose scale is zero are zero.
        self._scales = {kind: torch.zeros(slots, columns // QUANTISED_BLOCK, device=device) for kind in KINDS}
        self._staged: list[tuple[str, slice, Tensor, Tensor]] = []

    def row(self, kind: str, slot: int) -> Tensor:
        return self._dequantised(self._bytes[kind][slot], self._scales[kind][slot], kind)

    def set_row(self, kind: str, slot: int, values: Tensor) -> None:
        quantised, scales = self._quantised(values, kind)
        self._bytes[kind][slot].copy_(quantised)
        self._scales[kind][slot].copy_(scales)

    def block(self, kind: str, columns: slice, scratch: Tensor | None) -> Tensor:
        assert scratch is not None
        blocks = _blocks(columns)
        return scratch.copy_(self._dequantised(self._bytes[kind][:, columns], self._scales[kind][:, blocks], kind))

    def store(self, kind: str, columns: slice, values: Tensor, is_skipped: Tensor) -> None:
        quantised, scales = self._quantised(values, kind)
        # bitsandbytes' kernel for CPUs takes the lowest levels, below 1e-4 of a block's largest, for one another.
        quantised = torch.where(is_skipped, self._bytes[kind][:, columns], quantised)
        self._staged.append((kind, columns, quantised, scales.view(len(values), -1)))

    def commit(self) -> None:
        for kind, columns, quantised, scales in self._staged:
            self._bytes[kind][:, columns].copy_(quantised)
            self._scales[kind][:, _blocks(columns)].copy_(scales)
        self._staged = []

    def forget(self) -> None:
        self._staged = []

    def _quantised(self, values: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        values = values.to(torch.float32).contiguous()
        quantised, scales = torch.ops.bitsandbytes.quantize_blockwise.default(
            values, self._codes[kind], QUANTISED_BLOCK
        )
        return quantised, scales

    def _dequantised(self, stored: Tensor, scales: Tensor, kind: str) -> Tensor:
        values: Tensor = torch.ops.bitsandbytes.dequantize_blockwise.default(
            stored.contiguous(), scales.contiguous().flatten(), self._codes[kind], QUANTISED_BLOCK, torch.float32
        )
        return values.to(self._dtype)


def _blocks(columns: slice) -> slice:
    return slice(columns.start // QUANTISED_BLOCK, columns.stop // QUANTISED_BLOCK)


MOMENTS: dict[OptimizerState, Callable[[tuple[int, int], torch.dtype, torch.device], Moments]] = {
    "device": DeviceMoments,
    "host": HostMoments,
    "8bit": QuantisedMoments,
}
