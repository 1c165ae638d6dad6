"""Adapters of like rank, their gradients and moments, in memory that all of them share.

They are padded to the largest rank among them, and lie in flat `(K, P)` buffers whose slices are the layers'
parameters. What is done by slot (norms, clipping, a learning rate, a copy to disk) is then one operation on rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sweeper.engine import moments
from sweeper.engine.lora import PackedLoRA, Weights
from sweeper.engine.moments import MOMENTS, OptimizerState
from sweeper.memory.formula import QUANTISED_BLOCK, padded

KINDS = ("weight", *moments.KINDS)
BUCKET_FACTOR = 4  # the ranks of a bucket differ by less: fewer buckets, fewer kernels; more, less padding
FIRST_BUCKET = 16


@dataclass
class AdapterState:
    """One adapter outside a stack: true-rank matrices by kind and by name (`layers.0.q_proj.lora_A`).

    A module that the adapter does not target has no entry.
    """

    rank: int
    scale: float
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    @property
    def modules(self) -> frozenset[str]:
        """The names of the modules that the adapter targets."""
        return frozenset(name.rpartition(".")[0] for name in self.tensors["weight"])


def bucket_of(rank: int, is_exact: bool = False) -> int:
    """The largest rank of the bucket that `rank` belongs to: 16, 64, 256, …; `is_exact`: the next multiple of 8."""
    if is_exact:
        return padded(rank)
    largest = FIRST_BUCKET
    while largest < rank:
        largest *= BUCKET_FACTOR
    return largest


@dataclass(frozen=True)
class _Place:
    """Where one layer's A or B lies in a row of the flat buffers."""

    name: str
    rows: int | None  # None: the padded rank
    columns: int | None

    def shape(self, rank: int) -> tuple[int, int]:
        return (self.rows or rank, self.columns or rank)

    def at_rank(self, matrix: Tensor, rank: int) -> Tensor:
        """The part of a padded matrix that an adapter of `rank` uses."""
        return matrix[:rank] if self.rows is None else matrix[:, :rank]


class Bucket:
    """Slots whose adapters are padded to one rank.

    Args:
        states: the adapters, in the order of the slots; those without moments begin with zeros.
    """

    def __init__(
        self,
        modules: dict[str, PackedLoRA],
        states: Sequence[AdapterState],
        dtype: torch.dtype,
        device: torch.device,
        optimizer_state: OptimizerState = "device",
    ) -> None:
        self.members = [(state.rank, state.scale, state.modules) for state in states]
        self.rank = padded(max(state.rank for state in states))
        targeted = frozenset[str]().union(*(state.modules for state in states))
        linears = {name: module.base for name, module in modules.items() if name in targeted}
        # All A first, then all B: LoRA+ then is two column ranges with a rate each.
        self._places = [_Place(f"{name}.lora_A", None, linear.in_features) for name, linear in linears.items()]
        self._places += [_Place(f"{name}.lora_B", linear.out_features, None) for name, linear in linears.items()]
        # Values that share a scale must be of one matrix: then what lies beside it does not matter.
        self._multiple = QUANTISED_BLOCK if optimizer_state == "8bit" else 1
        sizes = [self._size(place) for place in self._places]
        self.columns_of_a = sum(sizes[: len(linears)])
        shape = (len(states), sum(sizes))
        self.weight = torch.zeros(shape, dtype=dtype, device=device)
        self.grad = torch.zeros(shape, dtype=dtype, device=device)
        self.moments = MOMENTS[optimizer_state](shape, dtype, device)
        self.scale = torch.tensor([state.scale for state in states], dtype=dtype, device=device)
        for slot, state in enumerate(states):
            for kind in KINDS:
                if not state.tensors[kind]:
                    continue  # moments begin with zeros
                row = self._row(kind, slot)
                for place, (view,) in zip(self._places, self._views(row[None]), strict=True):
                    if (tensor := state.tensors[kind].get(place.name)) is not None:
                        place.at_rank(view, state.rank).copy_(tensor)
                if kind != "weight":
                    self.moments.set_row(kind, slot, row)
        parameters = {}
        views = zip(self._places, self._views(self.weight), self._views(self.grad), strict=True)
        for place, weight, grad in views:
            parameters[place.name] = nn.Parameter(weight)
            parameters[place.name].grad = grad
        self.weights = {
            name: Weights(parameters[f"{name}.lora_A"], parameters[f"{name}.lora_B"], self.scale) for name in linears
        }

    @property
    def slots(self) -> int:
        return len(self.members)

    def _size(self, place: _Place) -> int:
        """The columns of a place in the flat buffers."""
        rows, columns = place.shape(self.rank)
        return -(-rows * columns // self._multiple) * self._multiple

    def _row(self, kind: str, slot: int) -> Tensor:
        return self.weight[slot] if kind == "weight" else self.moments.row(kind, slot)

    def _views(self, flat: Tensor) -> Iterator[Tensor]:
        """The `(K, rows, columns)` view of each place."""
        start = 0
        for place in self._places:
            rows, columns = place.shape(self.rank)
            yield flat[:, start : start + rows * columns].view(len(flat), rows, columns)
            start += self._size(place)

    @torch.no_grad()
    def state(self, slot: int, kinds: Sequence[str] = KINDS) -> AdapterState:
        """One slot at its true rank; views of the buffers, not copies, where they are kept at full precision."""
        rank, scale, modules = self.members[slot]
        state = AdapterState(rank, scale)
        for kind in kinds:
            for place, (view,) in zip(self._places, self._views(self._row(kind, slot)[None]), strict=True):
                if place.name.rpartition(".")[0] in modules:
                    state.tensors[kind][place.name] = place.at_rank(view, rank)
        return state
