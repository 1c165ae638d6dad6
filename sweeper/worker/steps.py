"""What the optimizer steps of a pack took, as metrics of each of its runs: step by step, and over a whole trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.engine.slot import Slot, Tick
from sweeper.events import EventLog
from sweeper.memory.planner import StepMemory
from sweeper.units import GIB


@dataclass(frozen=True)
class Step:
    """One optimizer step of a pack: what it did to each slot, what it held, and how long it took.

    Attributes:
        duration_s: with whatever was tried again for memory.
    """

    slots: Sequence[Slot]
    ticks: Sequence[Tick]
    memory: StepMemory
    duration_s: float

    def note(self) -> None:
        """Adds it to what the slots have taken so far, which their checkpoints keep."""
        for slot in self.slots:
            slot.train_s += self.duration_s
            if self.memory.peak_bytes > slot.peak_bytes:
                slot.peak_bytes, slot.predicted_bytes = self.memory.peak_bytes, self.memory.predicted_bytes

    def log(self, log: Callable[[int, dict[str, float], int], None], events: EventLog) -> None:
        """Logs it on the run of each slot, by its number, and says where each is for whoever watches."""
        for slot, tick in zip(self.slots, self.ticks, strict=True):
            log(slot.number, self._metrics(slot, tick), slot.examples_seen)
        events.write(
            "tick",
            slots=[
                {"number": slot.number, "step": slot.step, "loss": tick.loss, "tokens": slot.train_tokens}
                for slot, tick in zip(self.slots, self.ticks, strict=True)
            ],
            memory={"peak_gib": self.memory.peak_bytes / GIB, "budget_gib": self.memory.budget_bytes / GIB},
        )

    def _metrics(self, slot: Slot, tick: Tick) -> dict[str, float]:
        metrics = {
            "train/loss": tick.loss,
            **({} if tick.is_skipped else {"train/grad_norm": tick.grad_norm}),
            "train/learning_rate": tick.learning_rate,
            "train/tokens": slot.train_tokens,
            "train/supervised_tokens": slot.supervised_tokens,
            **self.memory.metrics(),
            **self._throughput(slot, tick),
        }
        return metrics if tick.loss_scale is None else {**metrics, "train/loss_scale": tick.loss_scale}

    def _throughput(self, slot: Slot, tick: Tick) -> dict[str, float]:
        examples = slot.examples_seen - slot.rhythm.examples_at(slot.step - 1)
        duration_s = max(self.duration_s, 1e-9)
        return {
            "throughput/tokens_per_s": tick.tokens / duration_s,
            "throughput/pack_tokens_per_s": sum(other.tokens for other in self.ticks) / duration_s,
            "throughput/examples_per_s": examples / duration_s,
            "throughput/step_s": self.duration_s,
            "throughput/pack_size": len(self.slots),
        }


def taken(slot: Slot) -> dict[str, Any]:
    """What a trial took, for the storage; nothing of one that has not trained."""
    if slot.train_s <= 0:
        return {}
    sizes = pack_sizes(slot)
    memory = {"vram_peak_gib": slot.peak_bytes / GIB, "vram_predicted_gib": slot.predicted_bytes / GIB}
    return {
        "train_s": round(slot.train_s, 3),
        **(memory if slot.peak_bytes else {}),
        **({"pack_size_mean": sum(sizes) / len(sizes), "pack_size_max": max(sizes)} if sizes else {}),
    }


def summary(took: Mapping[str, Any], train_tokens: int | None) -> dict[str, float]:
    """The same as metrics, by which the runs of trials are sorted."""
    metrics: dict[str, float] = {}
    if "vram_peak_gib" in took:
        metrics["vram/peak_gib_max"] = took["vram_peak_gib"]
    if train_tokens and took.get("train_s"):
        metrics["throughput/tokens_per_s_mean"] = train_tokens / took["train_s"]
    if "pack_size_mean" in took:
        metrics["throughput/pack_size_mean"] = took["pack_size_mean"]
    return metrics


def pack_sizes(slot: Slot) -> list[int]:
    """How many trained together in each of a slot's steps."""
    known = sorted(slot.company, key=lambda company: company.step)
    ends = [*(company.step for company in known[1:]), slot.step]
    sizes: list[int] = []
    for company, end in zip(known, ends, strict=True):
        sizes += [len(company.slots)] * max(0, end - company.step)
    return sizes
