"""The adapters of a pack, in buckets of like rank: so a trial of rank 128 does not pad those of rank 8."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sweeper.engine import attention
from sweeper.engine.bucket import KINDS, RANK_MULTIPLE, AdapterState, Bucket, bucket_of
from sweeper.engine.dropout import Dropout
from sweeper.engine.lora import Active, Layout, PackedLoRA, Route
from sweeper.engine.moments import OptimizerState
from sweeper.engine.spans import Spans
from sweeper.errors import LostRoomError, ModelError
from sweeper.memory.oom import Failure, attempted, free_caches, patiently


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
        self.buckets: list[Bucket] = []
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
        return sum(bucket.slots for bucket in self.buckets)

    def detach(self) -> None:
        """Makes the model what it was."""
        detach(self.model)

    @torch.no_grad()
    def admit(self, *states: AdapterState) -> int:
        """Adds adapters of one rank behind the others of their bucket; returns the slot of the first.

        Where memory runs out, the stack is as before.
        """
        largest = self._bucket_of(states[0].rank)
        place = sum(self._bucket_of(bucket.rank) < largest for bucket in self.buckets)
        if place == len(self.buckets) or self._bucket_of(self.buckets[place].rank) != largest:
            self.buckets.insert(place, self._bucket(list(states)))
            self._bind()
        else:
            self._rebuild(place, None, list(states))
        return sum(bucket.slots for bucket in self.buckets[: place + 1]) - len(states)

    @torch.no_grad()
    def remove(self, slot: int) -> AdapterState:
        """Takes an adapter out, into host memory; the slots behind it move up by one.

        Where memory runs out, the stack is as before.
        """
        removed = self.extract(slot, device="cpu")
        if not self.discard(slot):
            place, index = self._find(slot)
            self._rebuild(place, index, [])
        return removed

    def discard(self, slot: int) -> bool:
        """Drops the adapter of a slot that is alone in its bucket; False where it is not."""
        place, _ = self._find(slot)
        if self.buckets[place].slots > 1:
            return False
        del self.buckets[place]
        self._bind()
        return True

    def clear(self) -> None:
        """Takes all adapters out, and away."""
        self.buckets = []
        self._bind()

    def _rebuild(self, place: int, leaving: int | None, coming: list[AdapterState]) -> None:
        """Puts a new bucket in the place of an old one.

        For a moment both are there. Where that is too much, the adapters wait in host memory while the old one goes.
        """
        made = attempted(partial(self._successor, self.buckets[place], leaving, coming))
        if not isinstance(made, Failure):
            self.buckets[place] = made
            self._bind()
            return
        # One by one: moments of 8 bits are made whole for it.
        before = [_on_host(self.buckets[place].state(slot)) for slot in range(self.buckets[place].slots)]
        del self.buckets[place]
        self._bind()
        free_caches()
        made = attempted(lambda: self._bucket([state for slot, state in enumerate(before) if slot != leaving] + coming))
        restored = attempted(lambda: patiently(lambda: self._bucket(before))) if isinstance(made, Failure) else made
        if isinstance(restored, Failure):
            raise LostRoomError(
                f"the adapters of {len(before)} trials must go back to where they were, but the memory that they had "
                f"is gone ({restored.message}); they go on from their checkpoints"
            )
        self.buckets.insert(place, restored)
        self._bind()
        if isinstance(made, Failure):
            raise torch.OutOfMemoryError(made.message)

    def _successor(self, bucket: Bucket, leaving: int | None, coming: list[AdapterState]) -> Bucket:
        """A bucket with its slots, without one of them and with others."""
        return self._bucket([bucket.state(slot) for slot in range(bucket.slots) if slot != leaving] + coming)

    def _bucket(self, states: list[AdapterState]) -> Bucket:
        return Bucket(self.modules, states, self.dtype, self.device, self.optimizer_state)

    def _bucket_of(self, rank: int) -> int:
        # Values that share a scale lie as the padded rank has them: neighbours must not change it.
        return bucket_of(rank, is_exact=self.optimizer_state == "8bit")

    def extract(self, slot: int, kinds: Sequence[str] = KINDS, device: str | None = None) -> AdapterState:
        """Copies one adapter out, at its true rank; to where it is, unless `device` says otherwise."""
        place, index = self._find(slot)
        state = self.buckets[place].state(index, kinds)
        state.tensors = {
            kind: {name: tensor.detach().to(device, copy=True) for name, tensor in tensors.items()}
            for kind, tensors in state.tensors.items()
        }
        return state

    def _find(self, slot: int) -> tuple[int, int]:
        """The bucket of a slot, and its place there."""
        for place, bucket in enumerate(self.buckets):
            if slot < bucket.slots:
                return place, slot
            slot -= bucket.slots
        raise IndexError(slot)

    def _bind(self) -> None:
        for name, module in self.modules.items():
            module.weights = [bucket.weights.get(name) for bucket in self.buckets]

    def layout(
        self, rows: Sequence[tuple[int, int]], dropout: Dropout | None = None, spans: Spans | None = None
    ) -> Layout:
        """The layout of a chunk: `(slot, number of its rows)`, ascending by slot."""
        routes: list[Route] = []
        first = start = 0
        for place, bucket in enumerate(self.buckets):
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
    def profile(self) -> tuple[tuple[int, int], ...]:
        """The padded rank and the number of slots of each bucket."""
        return tuple((bucket.rank, bucket.slots) for bucket in self.buckets)

    def profile_with(self, rank: int, slots: int = 1) -> tuple[tuple[int, int], ...]:
        """The profile with so many slots of `rank` more, which may pad their neighbours."""
        own = -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE
        same = [bucket for bucket in self.buckets if self._bucket_of(bucket.rank) == self._bucket_of(rank)]
        others = [(bucket.rank, bucket.slots) for bucket in self.buckets if bucket not in same]
        joined = (max([own, *(bucket.rank for bucket in same)]), slots + sum(bucket.slots for bucket in same))
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


def _on_host(state: AdapterState) -> AdapterState:
    tensors = {kind: {name: t.cpu().clone() for name, t in named.items()} for kind, named in state.tensors.items()}
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
