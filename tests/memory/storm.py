"""Lets allocations of real training fail, one by one, and looks at what is left."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.engine import checkpoint, optimizer
from sweeper.engine.batches import Item
from sweeper.engine.bucket import AdapterState
from sweeper.engine.moments import OptimizerState
from sweeper.engine.pack import Pack
from sweeper.memory import oom, planner
from sweeper.memory.guard import Guard
from sweeper.memory.live import LiveBytes
from sweeper.memory.planner import Planner
from sweeper.memory.readings import ByteBudget
from sweeper.models.targets import linear_names
from sweeper.units import GIB
from tests.conftest import random_examples, small_model, trial_params
from tests.engine.oracle import admit

PROMPTS = [(2, 3, 4, 5), (6, 7), (8, 9, 10, 11, 12, 13)]
PHASES = ("forward", "backward", "optimizer", "evaluation", "save")
TRIALS = [
    trial_params(rank=8, batch_size=4, dropout=0.1),
    trial_params(rank=12, batch_size=3, target_modules="attention", weight_decay=0.1),
    trial_params(rank=24, batch_size=2, learning_rate=1e-3),
]


def errors() -> list[Exception]:
    """Every way in which torch and Python say it."""
    return [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ]


@dataclass
class Saboteur:
    """Counts allocations by phase, and lets those fail that it is told to."""

    plan: list[int] = field(default_factory=list)  # allocations from the latest failure to the next one
    phase: str = "other"
    only: str | None = None  # the phase whose allocations may fail
    counts: Counter[str] = field(default_factory=Counter)
    struck: list[str] = field(default_factory=list)  # the phases in which one failed
    random: random.Random = field(default_factory=lambda: random.Random(0))
    is_armed: bool = False
    _passed: int = 0

    def __call__(self, _size_bytes: int) -> None:
        if not self.is_armed:
            return
        self.counts[self.phase] += 1
        if self.only not in (None, self.phase):
            return
        if self.plan and self._passed == self.plan[0]:
            self.plan.pop(0)
            self._passed = 0
            self.struck.append(self.phase)
            raise self.random.choice(errors())
        self._passed += 1

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    @contextmanager
    def armed(self, *plan: int) -> Iterator[None]:
        self.plan, self.is_armed, self._passed = list(plan), True, 0
        self.struck = []
        try:
            yield
        finally:
            self.is_armed = False


@dataclass
class Cycle:
    """What a tick, an evaluation and a save gave."""

    gradients: torch.Tensor
    weights: torch.Tensor
    choices: list[int]
    items: int


class Rig:
    """A pack of three trials whose tick, evaluation and save can be repeated from one state."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, state: OptimizerState = "device") -> None:
        self.folder = folder
        self.saboteur = Saboteur()
        self.live = LiveBytes(on_allocation=self.saboteur)
        self.backend = ByteBudget(self.live, GIB)
        monkeypatch.setattr(planner, "RETRY_PAUSE_S", 0.0)
        monkeypatch.setattr(oom, "_PAUSE_S", 0.0)
        self._mark_phases(monkeypatch)
        model = small_model(torch.float32)
        self.pack = Pack(
            model,
            linear_names(model),
            random_examples(30),
            pad=0,
            chunk_tokens=100,
            dtype=torch.float32,
            optimizer_state=state,
            planner=Planner(Guard(self.backend), gradient_checkpointing="auto"),
        )
        for number, params in enumerate(TRIALS):
            admit(self.pack, number, params)
        self.pack.tick()  # the moments are not zero from here on
        self.states: dict[int, AdapterState] = {slot.number: self.pack.state(slot) for slot in self.pack.slots}
        self.begun = {slot.number: (slot.step, slot.train_tokens, slot.supervised_tokens) for slot in self.pack.slots}
        self.broken: list[str] = []  # phases after whose failure weights or moments were not as before
        self._watch_rescues(monkeypatch)

    def _mark_phases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        saboteur = self.saboteur

        def marked(owner: Any, name: str, phase: str) -> None:
            function = getattr(owner, name)

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with saboteur.during(phase):
                    return function(*args, **kwargs)

            monkeypatch.setattr(owner, name, wrapped)

        marked(Pack, "train_chunk", "forward")
        marked(torch.Tensor, "backward", "backward")
        marked(Pack, "best_of", "evaluation")
        marked(checkpoint, "save", "save")
        self.gradients: torch.Tensor = torch.empty(0)
        step = optimizer.step

        def stepped(stack: Any, rates: Any) -> Any:
            is_armed, saboteur.is_armed = saboteur.is_armed, False
            self.gradients = torch.cat([bucket.grad.flatten() for bucket in stack.buckets])
            saboteur.is_armed = is_armed
            with saboteur.during("optimizer"):
                return step(stack, rates)

        monkeypatch.setattr(optimizer, "step", stepped)

    def _watch_rescues(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rescue = Planner.rescue

        def watched(planner: Planner, failure: str) -> None:
            is_armed, self.saboteur.is_armed = self.saboteur.is_armed, False
            if self.is_ticking and not self._is_as_before():
                self.broken.append(self.saboteur.struck[-1])
            self.saboteur.is_armed = is_armed
            rescue(planner, failure)

        self.is_ticking = False
        monkeypatch.setattr(Planner, "rescue", watched)

    def _is_as_before(self) -> bool:
        for slot in self.pack.slots:
            before, now = self.states[slot.number].tensors, self.pack.state(slot).tensors
            if any(not torch.equal(now[kind][name], before[kind][name]) for kind in before for name in before[kind]):
                return False
        return True

    def restore(self) -> None:
        """Puts every trial back to where the cycle begins."""
        for slot in list(self.pack.slots):
            self.pack.remove(slot)
            slot.step, slot.train_tokens, slot.supervised_tokens = self.begun[slot.number]
            self.pack.admit(slot, self.states[slot.number])
        self.pack.settle()  # what runs out there is tests/engine/test_settle.py's
        self.pack.planner._limits.clear()
        self.pack.planner._must_checkpoint = False

    def cycle(self, *plan: int) -> Cycle:
        """A tick, an evaluation and a save, in which the given allocations fail."""
        self.restore()
        pack = self.pack
        with self.live, self.saboteur.armed(*plan):
            self.is_ticking = True
            ticks = pack.tick()
            self.is_ticking = False
            assert all(tick.is_finite for tick in ticks)
            items = [Item(index, prompt) for index in range(len(pack.slots)) for prompt in PROMPTS]
            choices = [choice.token for choice in pack.choose_next(items, [range(2, 96)] * len(items))]
            self.save()
        order = sorted(pack.slots, key=lambda slot: slot.number)
        weights = [tensor for slot in order for tensor in pack.state(slot).tensors["weight"].values()]
        seen = sum(slot.train_tokens for slot in pack.slots)
        return Cycle(self.gradients, torch.cat([tensor.flatten() for tensor in weights]), choices, seen)

    def save(self) -> None:
        """As a worker does it: a checkpoint that cannot be made is left out, and the old one stays."""
        for slot in self.pack.slots:
            file = self.folder / f"{slot.number}.safetensors"
            try:
                with self.saboteur.during("save"):
                    checkpoint.save(file, slot, self.pack.state(slot))
            except Exception as error:
                if not oom.is_out_of_memory(error):
                    raise
            is_armed, self.saboteur.is_armed = self.saboteur.is_armed, False
            if file.is_file():
                checkpoint.load(file)  # the new one or the old one, but whole
            self.saboteur.is_armed = is_armed
