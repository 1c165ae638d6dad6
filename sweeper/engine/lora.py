"""Many LoRA adapters over one frozen linear layer, in one forward and backward.

A *pack* trains K adapters at once. Each targeted linear of the base is replaced by a `PackedLoRA`
that holds all K adapters stacked: A is `(K, R, in)`, B is `(K, out, R)`. The rows of a batch are
slot-major: all rows of slot 0, then all of slot 1, …

            rows of slot 0 ─┐                 ┌─ A[0] ─ B[0] ─┐
            rows of slot 1 ─┼─ frozen W (once) ┼─ A[1] ─ B[1] ─┼─ sum
            rows of slot 2 ─┘                 └─ A[2] ─ B[2] ─┘

No operation mixes rows of different slots, and the loss is a plain sum over slots, so the
gradient of a slot is what it would be alone. A rank below R is padded with zeros in A *and* B: the
padding's gradient is then zero and AdamW, with weight decay too, leaves it at zero.

All adapters' weights, gradients and moments lie in flat `(K, P)` buffers whose slices the layers'
parameters are. Everything that is done by slot (norms, clipping, a learning rate, a copy to disk) is
then one operation on rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of eight elements, for grouped_mm: see `ragged_matmul`.
RANK_MULTIPLE = 8


@dataclass(frozen=True)
class Layout:
    """Which slots the tokens of a batch belong to: `tokens[i]` tokens of slot `slots[i]`, in that order."""

    slots: tuple[int, ...]  # ascending
    tokens: tuple[int, ...]  # padding included

    @property
    def is_even(self) -> bool:
        return len(set(self.tokens)) == 1


@dataclass
class _Active:
    """What the layers read during a forward; shared by all layers of a stack, made once for all of them."""

    layout: Layout | None = None
    slots: Tensor | None = None  # None: all slots of the stack
    ends: Tensor | None = None  # of each slot's tokens; int32, as grouped_mm wants it


class PackedLoRA(nn.Module):
    """A frozen linear with K stacked adapters; without a layout it is the frozen linear alone."""

    def __init__(self, base: nn.Linear, active: _Active) -> None:
        super().__init__()
        self.base = base
        self._active = active
        self.lora_A: nn.Parameter  # (K, R, in)
        self.lora_B: nn.Parameter  # (K, out, R)
        self.scale: Tensor  # (K,)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(rows, seq, in)` to `(rows, seq, out)`."""
        y: Tensor = self.base(x)
        if self._active.layout is None:
            return y
        # Training in the base's precision, as under autocast; scoring in the adapters', as PEFT does it
        # for the user of an export: what is scored is then what that user gets.
        dtype = x.dtype if self.training else self.lora_A.dtype
        return y + self._delta(x.to(dtype)).view_as(y).to(y.dtype)

    def _delta(self, x: Tensor) -> Tensor:
        layout, slots, ends = self._active.layout, self._active.slots, self._active.ends
        assert layout is not None
        assert ends is not None
        a: Tensor = self.lora_A
        b: Tensor = self.lora_B
        scale = self.scale
        if slots is not None:
            a, b, scale = a[slots], b[slots], scale[slots]
        a, b = a.to(x.dtype), (b * scale[:, None, None]).to(x.dtype)
        if layout.is_even:
            stacked = x.reshape(len(layout.slots), -1, x.shape[-1])
            return torch.bmm(torch.bmm(stacked, a.transpose(1, 2)), b.transpose(1, 2))
        tokens = x.reshape(-1, x.shape[-1])
        return ragged_matmul(ragged_matmul(tokens, a, ends), b, ends)


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


@dataclass(frozen=True)
class _Place:
    """Where one layer's A or B lies in a row of the flat buffers."""

    name: str
    module: PackedLoRA
    rows: int | None  # None: the padded rank
    columns: int | None

    def shape(self, rank: int) -> tuple[int, int]:
        return (self.rows or rank, self.columns or rank)

    def at_rank(self, matrix: Tensor, rank: int) -> Tensor:
        """The part of a padded matrix that an adapter of `rank` uses."""
        return matrix[..., :rank, :] if self.rows is None else matrix[..., :rank]


KINDS = ("weight", "exp_avg", "exp_avg_sq")  # AdamW's names


@dataclass
class AdapterState:
    """One adapter outside a stack: true-rank matrices by kind and by name (`layers.0.q_proj.lora_A`).

    A module that the adapter does not target has no entry.
    """

    rank: int
    scale: float
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=lambda: {kind: {} for kind in KINDS})


class AdapterStack:
    """The adapters of all slots of a pack, their gradients and moments, in flat `(K, P)` buffers.

    Args:
        model: the frozen base; every module of `targets` is replaced by a `PackedLoRA`.
        targets: names of linear modules, all that any trial may adapt.
        dtype: of the adapters' weights and moments.
    """

    def __init__(self, model: nn.Module, targets: Sequence[str], dtype: torch.dtype = torch.float32) -> None:
        self.model = model
        self.dtype = dtype
        self._active = _Active()
        self.modules: dict[str, PackedLoRA] = {}
        for name in targets:
            base = model.get_submodule(name)
            assert isinstance(base, nn.Linear)
            packed = PackedLoRA(base, self._active)
            model.set_submodule(name, packed)
            self.modules[name] = packed
        self.device = next(model.parameters()).device
        # All A first, then all B: LoRA+ then is two column ranges with a rate each.
        self._places = [_Place(f"{n}.lora_A", m, None, m.base.in_features) for n, m in self.modules.items()]
        self._places += [_Place(f"{n}.lora_B", m, m.base.out_features, None) for n, m in self.modules.items()]
        self.slots = 0
        self.rank = RANK_MULTIPLE
        self._ranks: list[int] = []
        self._scales: list[float] = []
        self._named: list[frozenset[str]] = []
        self._allocate(0, RANK_MULTIPLE)

    def detach(self) -> None:
        """Puts the base's own linears back."""
        for name, module in self.modules.items():
            self.model.set_submodule(name, module.base)

    def _allocate(self, slots: int, rank: int) -> None:
        self.slots, self.rank = slots, rank
        self.columns_of_a = sum(p.shape(rank)[0] * p.shape(rank)[1] for p in self._places if p.rows is None)
        width = sum(p.shape(rank)[0] * p.shape(rank)[1] for p in self._places)
        self.flat = {kind: torch.zeros(slots, width, dtype=self.dtype, device=self.device) for kind in KINDS}
        self.grad = torch.zeros(slots, width, dtype=self.dtype, device=self.device)
        for place, weight, grad in zip(
            self._places, self._views(self.flat["weight"]), self._views(self.grad), strict=True
        ):
            parameter = nn.Parameter(weight)
            parameter.grad = grad
            setattr(place.module, place.name.rpartition(".")[2], parameter)

    def _views(self, flat: Tensor) -> Iterator[Tensor]:
        """The `(K, rows, columns)` view of each place."""
        start = 0
        for place in self._places:
            rows, columns = place.shape(self.rank)
            yield flat[:, start : start + rows * columns].view(len(flat), rows, columns)
            start += rows * columns

    def replace(self, states: Sequence[AdapterState]) -> None:
        """Fills the stack with `states`, one a slot; it is resized to their number and largest rank."""
        rank = max([state.rank for state in states], default=RANK_MULTIPLE)
        self._allocate(len(states), -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE)
        self._ranks = [state.rank for state in states]
        self._scales = [state.scale for state in states]
        self._named = [frozenset(state.tensors["weight"]) for state in states]
        for kind, flat in self.flat.items():
            for place, view in zip(self._places, self._views(flat), strict=True):
                for slot, state in enumerate(states):
                    tensor = state.tensors[kind].get(place.name)
                    if tensor is not None:
                        place.at_rank(view[slot], state.rank).copy_(tensor)
        for module in self.modules.values():
            module.scale = torch.tensor(self._scales, dtype=self.dtype, device=self.device)

    def extract(self, slot: int, kinds: Sequence[str] = KINDS) -> AdapterState:
        """Copies one slot out, at its true rank."""
        state = AdapterState(rank=self._ranks[slot], scale=self._scales[slot])
        for kind in kinds:
            for place, view in zip(self._places, self._views(self.flat[kind]), strict=True):
                if place.name in self._named[slot]:
                    state.tensors[kind][place.name] = place.at_rank(view[slot], state.rank).detach().clone()
        return state

    @contextmanager
    def using(self, layout: Layout | None) -> Iterator[None]:
        """Within this context the base's forward applies the adapters to the rows as `layout` says."""
        active = self._active
        if layout is not None:
            active.layout = layout
            is_whole = len(layout.slots) == self.slots
            active.slots = None if is_whole else torch.tensor(layout.slots, device=self.device)
            active.ends = torch.tensor(layout.tokens, device=self.device).cumsum(0).to(torch.int32)
        try:
            yield
        finally:
            active.layout = active.slots = active.ends = None


def initial_state(stack: AdapterStack, targets: Sequence[str], rank: int, scale: float, seed: int) -> AdapterState:
    """A fresh adapter as PEFT initialises it: A uniform in ±1/√in, B zero.

    A's values depend on the seed, the module and the rank alone: not on the slot or its neighbours.
    """
    state = AdapterState(rank=rank, scale=scale)
    for position, (name, module) in enumerate(stack.modules.items()):
        if name not in targets:
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
        bound = module.base.in_features**-0.5
        a = torch.rand(rank, module.base.in_features, generator=generator, dtype=torch.float64)
        state.tensors["weight"][f"{name}.lora_A"] = ((2 * a - 1) * bound).to(stack.dtype)
        state.tensors["weight"][f"{name}.lora_B"] = torch.zeros(module.base.out_features, rank, dtype=stack.dtype)
    return state
