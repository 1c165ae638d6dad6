"""Dropout that depends on what is dropped, not on who draws first.

torch's dropout draws from one generator, so a trial's mask would change with the chunks of its tick, the
padding and its neighbours. Here whether an input of an adapter is dropped is a hash of the trial's seed,
the example's position in the trial's data, the token, the layer and the feature: the same alone and in a
pack, and the same again when a checkpointed layer is recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK_32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Dropout:
    """The dropout of one chunk.

    Attributes:
        keys: `(rows, seq)`, int32; what the hash begins with.
        thresholds: `(rows, 1, 1)`, int32; a hash below is dropped.
        gains: `(rows, 1, 1)`; 1/(1 - rate), what is kept is multiplied with.
    """

    keys: Tensor
    thresholds: Tensor
    gains: Tensor

    @classmethod
    def of(
        cls, seeds: Sequence[int], positions: Sequence[int], rates: Sequence[float], seq: int, device: torch.device
    ) -> Dropout:
        """Of rows of `seq` tokens: each row's trial seed, its example's position in the data, its rate."""
        rows = _mix_64(_mix_64(np.array(seeds, np.uint64)) + np.array(positions, np.uint64))
        tokens = _mix_64(rows[:, None] + np.arange(seq).astype(np.uint64))
        keys = (tokens >> np.uint64(32)).astype(np.uint32).view(np.int32)
        thresholds = [min(round(rate * 2**32), _MASK_32) - 2**31 for rate in rates]
        return cls(
            keys=torch.from_numpy(keys).to(device),
            thresholds=torch.tensor(thresholds, dtype=torch.int32, device=device)[:, None, None],
            gains=torch.tensor([1 / (1 - rate) for rate in rates], dtype=torch.float64, device=device)[:, None, None],
        )

    def of_tokens(self, rows: Tensor, positions: Tensor) -> Dropout:
        """That of a row for each token `(tokens,)`, given whose it is and where it stands there."""
        return Dropout(self.keys[rows, positions][:, None], self.thresholds[rows], self.gains[rows])

    def apply(self, x: Tensor, layer: int) -> Tensor:
        """Drops features of `x` `(rows, seq, in)`; `layer` is a number that tells the layers apart."""
        features = _mix_32(torch.arange(x.shape[-1], dtype=torch.int32, device=x.device) + _signed(layer))
        keys = _mix_32(self.keys + _signed(layer * 0x9E3779B1))
        is_kept = _mix_32(keys[:, :, None] ^ features) >= self.thresholds
        # The gain is not rounded to bfloat16: that alone would shift what is kept by up to 0.4 %.
        gains = self.gains if x.dtype is torch.float64 else self.gains.float()
        return torch.where(is_kept, (x * gains).to(x.dtype), 0.0)


def _mix_64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea, Flood 2014), with its increment."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix_32(x: Tensor) -> Tensor:
    """The 32-bit hash `lowbias32` (Wellons, 2018) on int32, which wraps; in place, since x is large."""
    x ^= _shifted(x, 16)
    x *= 0x7FEB352D
    x ^= _shifted(x, 15)
    x *= _signed(0x846CA68B)
    x ^= _shifted(x, 16)
    return x


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A right shift that fills with zeros; torch's fills with the sign."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _signed(value: int) -> int:
    """The int32 with the low 32 bits of `value`."""
    value &= _MASK_32
    return value - 2**32 if value >= 2**31 else value
