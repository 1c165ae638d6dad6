"""The adapters of a pack, in buckets of like rank: so a trial of rank 128 does not pad those of rank 8."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sweeper.engine import attention
from sweeper.engine.bucket import KINDS, AdapterState, Bucket, bucket_of
from sweeper.engine.dropout import Dropout
from sweeper.engine.lora import Active, Layout, PackedLoRA, Route
from sweeper.engine.moments import OptimizerState
from sweeper.engine.spans import Spans
from sweeper.errors import ModelError
from sweeper.memory.formula import padded
from sweeper.memory.oom import Failure, attempted, free_caches
from sweeper.memory.planner import Profile


@dataclass(eq=False)
class _Group:
    """The adapters of one bucket, as they lie there and as they are to.

    Attributes:
        largest: the rank up to which adapters belong to it.
        entries: its slots in their order; each is a row of `bucket`, or an adapter that is not in memory yet.
        bucket: None: nothing is in memory yet.
    """

    largest: int
    entries: list[int | AdapterState] = field(default_factory=list)
    bucket: Bucket | None = None

    @property
    def is_settled(self) -> bool:
        return self.bucket is not None and self.entries == list(range(self.bucket.slots))

    @property
    def growth(self) -> int:
        """By how many slots it grows when it is settled."""
        return len(self.entries) - (self.bucket.slots if self.bucket is not None else 0)

    @property
    def kept(self) -> list[int]:
        """The rows of the bucket that stay."""
        return [entry for entry in self.entries if isinstance(entry, int)]

    @property
    def rank(self) -> int:
        """The padded rank, once it is settled."""
        return padded(max(self._rank(entry) for entry in self.entries))

    def _rank(self, entry: int | AdapterState) -> int:
        if isinstance(entry, AdapterState):
            return entry.rank
        assert self.bucket is not None
        return self.bucket.members[entry][0]

    def state(self, entry: int | AdapterState, kinds: Sequence[str] = KINDS) -> AdapterState:
        """One of the slots; views where it is in memory."""
        if isinstance(entry, AdapterState):
            return entry
        assert self.bucket is not None
        return self.bucket.state(entry, kinds)

    def states(self) -> list[AdapterState]:
        return [self.state(entry) for entry in self.entries]


class AdapterStack:
    """The adapters of all slots of a pack, on a base. Slots are numbered bucket after bucket.

    Args:
        model: the frozen base; every module of `targets` is replaced by a `PackedLoRA`.
        targets: names of linear modules, all that any trial may adapt.
        dtype: of the adapters' weights and moments.
        optimizer_state: where the moments are between two steps.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[str],
        dtype: torch.dtype = torch.float32,
        optimizer_state: OptimizerState = "device",
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.optimizer_state: OptimizerState = optimizer_state
        self.device = next(model.parameters()).device
        self._groups: list[_Group] = []
        self._is_checkpointing = False
        self.modules: dict[str, PackedLoRA] = {}
        self._active = Active()
        for name in targets:
            base = model.get_submodule(name)
            assert isinstance(base, nn.Linear)
            self.modules[name] = PackedLoRA(base, self._active, key=zlib.crc32(name.encode()))
            model.set_submodule(name, self.modules[name])

    @property
    def slots(self) -> int:
        return sum(len(group.entries) for group in self._groups)

    @property
    def buckets(self) -> list[Bucket]:
        """The adapters in memory, all of them and no others: see `settle`."""
        self.settle()
        return [group.bucket for group in self._groups if group.bucket is not None]

    def detach(self) -> None:
        """Makes the model what it was."""
        detach(self.model)

    def admit(self, *states: AdapterState) -> int:
        """Adds adapters of one rank behind the others of their bucket; returns the slot of the first.

        They are put into memory by `settle`, and must not be changed before.
        """
        largest = self._bucket_of(states[0].rank)
        place = sum(group.largest < largest for group in self._groups)
        if place == len(self._groups) or self._groups[place].largest != largest:
            self._groups.insert(place, _Group(largest))
        self._groups[place].entries += states
        return sum(len(group.entries) for group in self._groups[: place + 1]) - len(states)

    @torch.no_grad()
    def remove(self, slot: int) -> AdapterState:
        """Takes an adapter out, into host memory; the slots behind it move up by one.

        Where memory runs out, the stack is as before.
        """
        removed = self.extract(slot)
        self.discard(slot)
        return removed

    def discard(self, slot: int) -> None:
        """Drops the adapter of a slot, which takes no memory. Its own is free once its bucket is empty, or settled."""
        group, place = self._find(slot)
        del group.entries[place]
        if not group.entries:
            self._groups.remove(group)
            self._bind()

    def clear(self) -> None:
        """Takes all adapters out, and away."""
        self._groups = []
        self._bind()

    @torch.no_grad()
    def settle(self) -> None:
        """Puts what has come since the last time into memory, and lets go of what has left: a bucket is laid out once
        for all of it, and that takes seconds where adapters are large.

        Where memory runs out nothing is lost: it is tried again by the next call.
        """
        # Those that shrink make room for those that grow.
        for group in sorted(self._groups, key=lambda group: group.growth):
            if group.is_settled:
                continue
            if not group.kept:
                self._let_go(group)
            made = attempted(partial(self._laid_out, group))
            if isinstance(made, Failure):
                # Not both the old and the new one: what stays waits in host memory.
                group.entries = [
                    _on_host(group.state(entry)) if isinstance(entry, int) else entry for entry in group.entries
                ]
                self._let_go(group)
                free_caches()
                made = self._laid_out(group)
            group.bucket = made
            group.entries = list(range(len(group.entries)))
            self._bind()

    def _let_go(self, group: _Group) -> None:
        """Frees what a group has in memory."""
        group.bucket = None
        self._bind()

    def _laid_out(self, group: _Group) -> Bucket:
        return self._bucket(group.states())

    def _bucket(self, states: list[AdapterState]) -> Bucket:
        return Bucket(self.modules, states, self.dtype, self.device, self.optimizer_state)

    def _bucket_of(self, rank: int) -> int:
        # Values that share a scale lie as the padded rank has them: neighbours must not change it.
        return bucket_of(rank, is_exact=self.optimizer_state == "8bit")

    def extract(self, slot: int, kinds: Sequence[str] = KINDS) -> AdapterState:
        """Copies one adapter into host memory, at its true rank."""
        group, place = self._find(slot)
        return _on_host(group.state(group.entries[place], kinds), kinds)

    def _find(self, slot: int) -> tuple[_Group, int]:
        """The group of a slot, and its place there."""
        for group in self._groups:
            if slot < len(group.entries):
                return group, slot
            slot -= len(group.entries)
        raise IndexError(slot)

    def _bind(self) -> None:
        buckets = [group.bucket for group in self._groups]
        for name, module in self.modules.items():
            module.weights = [bucket.weights.get(name) if bucket is not None else None for bucket in buckets]

    def layout(
        self, rows: Sequence[tuple[int, int]], dropout: Dropout | None = None, spans: Spans | None = None
    ) -> Layout:
        """The layout of a chunk: `(slot, number of its rows)`, ascending by slot."""
        routes: list[Route] = []
        first = start = 0
        for place, bucket in enumerate(self.buckets):  # which settles them
            here = [(slot - first, count) for slot, count in rows if first <= slot < first + bucket.slots]
            first += bucket.slots
            if not here:
                continue
            slots, counts = zip(*here, strict=True)
            stop = start + sum(counts)
            routes.append(
                Route(
                    bucket=place,
                    start=start,
                    stop=stop,
                    slots=None if len(slots) == bucket.slots else torch.tensor(slots, device=self.device),
                    counts=counts,
                    ends=torch.tensor(counts, device=self.device).cumsum(0).to(torch.int32),
                )
            )
            start = stop
        return Layout(rows=start, routes=tuple(routes), dropout=dropout, spans=spans)

    @contextmanager
    def using(self, layout: Layout | None) -> Iterator[None]:
        """Within this context the base's forward applies the adapters to the rows as `layout` says."""
        before, self._active.layout = self._active.layout, layout
        apart = attention.using(self.model, layout.spans) if layout is not None and layout.spans else nullcontext()
        try:
            with apart:
                yield
        finally:
            self._active.layout = before

    @property
    def profile(self) -> Profile:
        """The padded rank and the number of slots of each bucket, once they are settled."""
        return tuple((group.rank, len(group.entries)) for group in self._groups)

    @property
    def held(self) -> Profile:
        """The same of what is in memory at this moment."""
        return tuple((group.bucket.rank, group.bucket.slots) for group in self._groups if group.bucket is not None)

    def profile_with(self, rank: int, slots: int = 1) -> Profile:
        """The profile with so many slots of `rank` more, which may pad their neighbours."""
        largest = self._bucket_of(rank)
        same = [group for group in self._groups if group.largest == largest]
        others = [(group.rank, len(group.entries)) for group in self._groups if group not in same]
        joined = (max([padded(rank), *(group.rank for group in same)]), slots + sum(len(g.entries) for g in same))
        return tuple(sorted([*others, joined]))

    @property
    def can_checkpoint(self) -> bool:
        """Whether the architecture has a place for gradient checkpointing."""
        model: Any = self.model
        return bool(model.supports_gradient_checkpointing)

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Whether the base's layers are recomputed in the backward instead of kept.

        Raises:
            ModelError: if the architecture has no place for it.
        """
        if enable == self._is_checkpointing:
            return
        self._is_checkpointing = enable
        model: Any = self.model
        if self.can_checkpoint:
            # The function is the one that transformers' layers call in place of their own forward.
            model._set_gradient_checkpointing(enable=enable, gradient_checkpointing_func=self._checkpointed)
        elif enable:
            raise ModelError(
                "engine.gradient_checkpointing must be false for a model that does not support it, but it is true and "
                f"the model is a {type(model).__name__}"
            )

    def _checkpointed(self, function: Callable[..., Any], *args: Any) -> Any:
        # The layout goes in as an argument: the recompute happens in the backward, when another may be active.
        # Nothing random is drawn, so the generator's state need not be kept.
        return checkpoint(
            self._run, self._active.layout, function, *args, use_reentrant=False, preserve_rng_state=False
        )

    def _run(self, layout: Layout | None, function: Callable[..., Any], *args: Any) -> Any:
        with self.using(layout):
            return function(*args)


def _on_host(state: AdapterState, kinds: Sequence[str] = KINDS) -> AdapterState:
    """A copy in host memory of these kinds of tensors."""
    tensors: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in KINDS}
    for kind in kinds:
        tensors[kind] = {name: one.detach().to("cpu", copy=True) for name, one in state.tensors[kind].items()}
    return AdapterState(state.rank, state.scale, tensors)


def detach(model: Any) -> None:
    """Puts a model's own linears back in the place of all `PackedLoRA`, and lets go of the stack."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLoRA):
            model.set_submodule(name, module.base)
    if model.supports_gradient_checkpointing:
        model._set_gradient_checkpointing(enable=False, gradient_checkpointing_func=checkpoint)


def initial_state(stack: AdapterStack, targets: Sequence[str], rank: int, scale: float, seed: int) -> AdapterState:
    """A fresh adapter as PEFT initialises it: A uniform in ±1/√in, B zero.

    A's values depend on the seed, the module and the rank alone: not on the slot or its neighbours.
    """
    state = AdapterState(rank=rank, scale=scale)
    for name in targets:
        module = stack.modules[name]
        generator = torch.Generator().manual_seed(seed * 2**32 + module.key)
        bound = module.base.in_features**-0.5
        a = torch.rand(rank, module.base.in_features, generator=generator, dtype=torch.float64)
        state.tensors["weight"][f"{name}.lora_A"] = ((2 * a - 1) * bound).to(stack.dtype)
        state.tensors["weight"][f"{name}.lora_B"] = torch.zeros(module.base.out_features, rank, dtype=stack.dtype)
    return state
