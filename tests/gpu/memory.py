"""The memory of a training step as it is predicted, beside what it takes: the part `memory` of `make gpu-check`."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from sweeper.engine.short_attention import elsewhere
from sweeper.engine.stack import detach
from sweeper.errors import SweeperError
from sweeper.memory.formula import MOMENT_BYTES, WEIGHT_AND_GRADIENT_BYTES, Formula, padded
from sweeper.memory.oom import free_caches
from sweeper.memory.planner import Load, Work
from sweeper.memory.readings import CudaBackend
from sweeper.preflight.case import Case, Extent, ModelShape
from sweeper.preflight.dimensions import bytes_of, quantised_tensors
from sweeper.preflight.predictor import fitted
from sweeper.units import GIB
from tests.gpu.shapes import SHAPES, random_base, random_pack

ANSWER_TOKENS = 32
SHORT_TOKENS = 3  # of padding: without any, there is no attention mask
ALL, ATTENTION = "all-linear", "attention"
KEPT, RECOMPUTED = False, True
# Rank, tokens of a row, rows of a slot, slots, target modules, recomputing, moments; the smaller ones first.
_CASES: tuple[tuple[int, int, int, int, str, bool, Any], ...] = (
    (8, 64, 1, 1, ALL, KEPT, "device"),
    (8, 64, 4, 1, ATTENTION, KEPT, "8bit"),
    (16, 128, 4, 1, ALL, RECOMPUTED, "device"),
    (32, 64, 4, 2, ATTENTION, RECOMPUTED, "8bit"),
    (64, 128, 2, 2, ALL, KEPT, "8bit"),
    (128, 64, 8, 1, ATTENTION, KEPT, "device"),
    (128, 256, 2, 1, ALL, RECOMPUTED, "device"),
    (64, 512, 2, 2, ATTENTION, RECOMPUTED, "device"),
    (12, 256, 2, 4, ALL, KEPT, "device"),
    (8, 512, 4, 1, ATTENTION, KEPT, "device"),
    (32, 1024, 2, 1, ALL, KEPT, "8bit"),
    (24, 2048, 1, 1, ALL, RECOMPUTED, "device"),
    (8, 128, 8, 4, ALL, RECOMPUTED, "8bit"),
    (128, 512, 2, 4, ATTENTION, RECOMPUTED, "8bit"),
    (128, 2048, 2, 1, ATTENTION, RECOMPUTED, "8bit"),
    (16, 1024, 2, 2, ATTENTION, KEPT, "device"),
    (64, 512, 8, 1, ALL, KEPT, "device"),
    (16, 2048, 2, 1, ALL, KEPT, "device"),
    (8, 1024, 4, 2, ALL, RECOMPUTED, "device"),
    (32, 2048, 4, 1, ALL, RECOMPUTED, "device"),
    (64, 2048, 2, 2, ALL, RECOMPUTED, "8bit"),
)
CASES = tuple(
    Case(rank, seq, rows, slots, ANSWER_TOKENS, targets, is_checkpointed, optimizer_state=state)
    for rank, seq, rows, slots, targets, is_checkpointed, state in _CASES
)
# A toy's adapters are small and its masks large beside the rest: of a few tokens, that would be most.
TOY_CASES = tuple(case for case in CASES if case.rows > 1 and 2048 <= case.rows * case.slots * case.seq <= 4096)
EXTENT = Extent(
    ranks=(8, 128),
    seqs=(64, 2048),
    answer_tokens=ANSWER_TOKENS,
    most_tokens=8192,
    has_dropout=False,
)


@dataclass(frozen=True)
class Taken:
    """What a step takes.

    Attributes:
        held_bytes: between two steps.
        peak_bytes: at its peak, with that.
        reserved_bytes: what the allocator held of the device for it.
    """

    held_bytes: int
    peak_bytes: int
    reserved_bytes: int | None = None


def formula_of(shape: str) -> Formula:
    """The formula of a shape, as a worker and `sweeper plan` have it: fitted on the CPU, without any weights."""
    return fitted(ModelShape(SHAPES[shape], "bfloat16", "nf4", (ALL, ATTENTION)), EXTENT)


def predicted(formula: Formula, case: Case, workspace_bytes: int = 0) -> Taken:
    """What the formula says of a case, with what libraries keep, which a worker measures."""
    count = case.rows * case.slots
    load = Load(Work.TRAIN, count, case.seq, count * case.answer_tokens, case.is_checkpointed)
    each = WEIGHT_AND_GRADIENT_BYTES + MOMENT_BYTES[case.optimizer_state]
    adapters = int(case.slots * formula.adapter_values(case.rank, case.target_modules) * each)
    held = workspace_bytes + formula.base_bytes + adapters
    profile = ((padded(case.rank), case.slots),)
    scratch = formula.optimizer_bytes(profile, case.target_modules, case.optimizer_state)
    step = formula.transient_bytes(load, profile, case.target_modules)
    return Taken(held, held + max(step, scratch))


def measured(model: Any, case: Case, device: torch.device) -> Taken:
    """What the second step of a fresh pack takes: the first one makes what stays, such as workspaces."""
    try:
        with elsewhere():  # on a CPU it is a rehearsal of a card, whose kernels are others than a CPU's own
            return (_on_cuda if device.type == "cuda" else _on_cpu)(model, case, device)
    finally:
        detach(model)


def _on_cuda(model: Any, case: Case, device: torch.device) -> Taken:
    pack = random_pack(model, case, SHORT_TOKENS)
    free_caches()  # a slot that comes is there twice for a moment, and what that reserved is no part of a step
    pack.tick()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    pack.tick()
    torch.cuda.synchronize(device)
    return Taken(held, torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))


def _on_cpu(model: Any, case: Case, device: torch.device) -> Taken:
    assert device.type == "cpu"
    base = bytes_of([*quantised_tensors(model), *model.parameters(), *model.buffers()])
    gc.collect()  # what an earlier case has left is no part of this one
    with _allocations() as before:
        pack = random_pack(model, case, SHORT_TOKENS)
        pack.tick()
        gc.collect()
    with _allocations() as during:
        pack.tick()
    held = base + sum(before)
    peak = running = held
    for size in during:
        running += size
        peak = max(peak, running)
    return Taken(held, peak)


@contextmanager
def _allocations() -> Iterator[list[int]]:
    """The bytes of all that is allocated in this context, and, below zero, of what is freed, one after the other."""
    sizes: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield sizes
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes += [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def backend_of(device: torch.device) -> CudaBackend | None:
    """What a worker asks for its memory; None on a CPU."""
    return CudaBackend(device) if device.type == "cuda" else None


def context_gib(backend: CudaBackend | None) -> float | None:
    """What this process holds of the device beside tensors."""
    return round(backend.runtime_bytes() / GIB, 4) if backend is not None else None


def compared(
    shape: str, formula: Future[Formula], device: torch.device, end_s: float, workspace_bytes: int = 0
) -> Iterator[dict[str, Any]]:
    """A row for each case: its prediction, what it took, and `error`, which is predicted / measured − 1.

    Where nothing was measured, `error` says why.

    Args:
        formula: of this shape, once it is there.
        end_s: no case begins after this, by `time.monotonic`.
        workspace_bytes: what libraries keep of the allocator's memory.
    """
    try:
        known = formula.result(timeout=max(0.0, end_s - time.monotonic()))
        model = random_base(shape, device)
    except TimeoutError:
        yield {"shape": shape, "error": "no time left"}
        return
    except (SweeperError, RuntimeError) as error:
        yield {"shape": shape, "error": first_line(error)}
        return
    for case in TOY_CASES if shape == "toy" else CASES:
        said = predicted(known, case, workspace_bytes)
        row = {"shape": shape, **case.as_dict(), "predicted_gib": _gib(said.peak_bytes)}
        yield row | _answer(model, case, said, device, end_s)


def _answer(model: Any, case: Case, said: Taken, device: torch.device, end_s: float) -> dict[str, Any]:
    if time.monotonic() > end_s:
        return {"error": "no time left"}
    free_caches()
    try:
        taken = measured(model, case, device)
    except RuntimeError as error:  # out of memory comes as several kinds of it
        return {"error": first_line(error)}
    return {
        "measured_gib": _gib(taken.peak_bytes),
        "reserved_gib": _gib(taken.reserved_bytes) if taken.reserved_bytes is not None else None,
        # What stays is counted, what comes and goes is fitted: this says which of them is off.
        "predicted_held_gib": _gib(said.held_bytes),
        "measured_held_gib": _gib(taken.held_bytes),
        "error": round(said.peak_bytes / taken.peak_bytes - 1, 5),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far predictions were off; `lowest` is the deepest below what was measured."""
    errors = [row["error"] for row in rows if "measured_gib" in row]
    if not errors:
        return {"count": 0}
    return {
        "count": len(errors),
        "mean_absolute_error": round(sum(map(abs, errors)) / len(errors), 5),
        "worst_error": max(errors, key=abs),
        "lowest_error": min(errors),
    }


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _gib(size_bytes: int) -> float:
    return round(size_bytes / GIB, 6)  # a toy takes thousandths
