"""One linear layer of the base with the adapters of a pack beside it; see `sweeper.engine` for the whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from sweeper.engine.dropout import Dropout
from sweeper.engine.spans import Spans
from sweeper.errors import ModelError


@dataclass(frozen=True)
class Route:
    """The rows of a chunk that one bucket of the stack adapts: neighbours, slot after slot."""

    bucket: int
    start: int
    stop: int
    slots: Tensor | None  # which of the bucket's slots; None: all of them
    counts: tuple[int, ...]  # rows of each slot
    ends: Tensor  # where each slot's rows end, from `start`; int32, as grouped_mm wants it
    _token_ends: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _token_slots: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def is_even(self) -> bool:
        return len(set(self.counts)) == 1

    def token_ends(self, tokens: int) -> Tensor:
        """`ends` in tokens, where a row has `tokens`; made once for all layers."""
        if tokens not in self._token_ends:
            self._token_ends[tokens] = self.ends * tokens
        return self._token_ends[tokens]

    def token_slots(self, tokens: int) -> Tensor:
        """The place of each token's slot among `slots`, likewise."""
        if tokens not in self._token_slots:
            repeats = torch.diff(self.token_ends(tokens), prepend=self.ends.new_zeros(1))
            places = torch.arange(len(self.counts), device=self.ends.device)
            self._token_slots[tokens] = places.repeat_interleave(repeats, output_size=sum(self.counts) * tokens)
        return self._token_slots[tokens]


@dataclass(frozen=True)
class Layout:
    """Whose adapter reads which row of a chunk. Rows are slot-major, in the order of the stack."""

    rows: int  # those of the layers' inputs: of a chunk without padding, each token is one
    routes: tuple[Route, ...]
    dropout: Dropout | None = None
    spans: Spans | None = None


@dataclass
class Active:
    """The layout of the forward that runs; one object for all layers of a stack."""

    layout: Layout | None = None


@dataclass(frozen=True)
class Weights:
    """One bucket's adapters of one layer."""

    a: nn.Parameter  # (K, R, in)
    b: nn.Parameter  # (K, out, R)
    scale: Tensor  # (K,)


class PackedLoRA(nn.Module):
    """A frozen linear with stacked adapters; without a layout it is the frozen linear alone.

    Args:
        key: a number below 2³² that tells this layer's random values from those of others.
    """

    def __init__(self, base: nn.Linear, active: Active, key: int) -> None:
        super().__init__()
        self.base = base
        self.key = key
        self._active = active
        # By bucket; None where no slot of it targets this layer. Not registered: `parameters()` is the base's.
        self.weights: list[Weights | None] = []

    @property
    def weight(self) -> Tensor:
        """The frozen weight; some models ask a linear for its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(rows, seq, in)`, or `(rows × seq, in)`, to the same with `out`."""
        y: Tensor = self.base(x)
        layout = self._active.layout
        if layout is None or all(self.weights[route.bucket] is None for route in layout.routes):
            return y
        tokens, rest = divmod(x.shape[:-1].numel(), layout.rows)
        if rest:
            raise ModelError(
                f"a layer must see every token of {layout.rows} rows, but one got {x.shape[:-1].numel()} tokens: "
                "layers that see some tokens only, as experts do, cannot be packed"
            )
        # Training in the base's precision, as under autocast; scoring in the adapters', as PEFT does it
        # (at 4-bit layers, to the rounding) for the user of an export: what is scored is then what that user gets.
        dtype = x.dtype if self.training else next(w.a.dtype for w in self.weights if w is not None)
        rows = x.reshape(layout.rows, tokens, x.shape[-1]).to(dtype)
        if self.training and layout.dropout is not None:
            rows = layout.dropout.apply(rows, self.key)
        parts = [self._delta(rows[route.start : route.stop], route) for route in layout.routes]
        delta = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y + delta.view_as(y).to(y.dtype)

    def _delta(self, x: Tensor, route: Route) -> Tensor:
        """What the adapters of one bucket add: `(rows, tokens, in)` to `(rows, tokens, out)`."""
        weights = self.weights[route.bucket]
        if weights is None:
            return x.new_zeros(*x.shape[:2], self.base.out_features)
        a: Tensor = weights.a
        b: Tensor = weights.b
        scale = weights.scale
        if route.slots is not None:
            a, b, scale = a[route.slots], b[route.slots], scale[route.slots]
        # What is between A and B is scaled: there is less of it than of B. The scale itself is not rounded.
        a, b = a.to(x.dtype), b.to(x.dtype)
        if route.is_even:
            stacked = x.reshape(len(route.counts), -1, x.shape[-1])
            inner = torch.bmm(stacked, a.transpose(1, 2)) * scale[:, None, None]
            delta = torch.bmm(inner.to(x.dtype), b.transpose(1, 2))
        else:
            ends = route.token_ends(x.shape[1])
            inner = ragged_matmul(x.reshape(-1, x.shape[-1]), a, ends) * scale[route.token_slots(x.shape[1])][:, None]
            delta = ragged_matmul(inner.to(x.dtype), b, ends)
        return delta.reshape(*x.shape[:2], self.base.out_features)


def ragged_matmul(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Multiplies consecutive runs of rows with one matrix each.

    Args:
        x: `(rows, in)`.
        weights: `(K, out, in)`.
        ends: `(K,)`, int32: where the run of each of the K matrices ends; the last is `rows`.

    Returns:
        `(rows, out)`.
    """
    # grouped_mm has no float64, and wants strides in multiples of 16 bytes.
    is_aligned = all(width * x.element_size() % 16 == 0 for width in weights.shape[1:])
    if x.dtype is not torch.float64 and is_aligned:
        return functional.grouped_mm(x, weights.transpose(1, 2), offs=ends)
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    starts = ends - counts
    column = torch.arange(int(counts.max()), device=x.device)
    is_real = column < counts[:, None]  # (K, longest)
    index = torch.where(is_real, starts[:, None] + column, len(x))
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])[index]  # (K, longest, in)
    return torch.bmm(padded, weights.transpose(1, 2))[is_real]
