"""A worker's memory: who reads it, what the study will take of it, and the rehearsal of its worst step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from sweeper.config.schema import Config
from sweeper.engine.stack import AdapterStack
from sweeper.errors import ModelError, OutOfRoomError
from sweeper.memory.calibration import Calibration, Machine
from sweeper.memory.formula import Formula
from sweeper.memory.guard import Guard
from sweeper.memory.heap import keep_freed_memory
from sweeper.memory.live import LiveBytes
from sweeper.memory.oom import Failure, attempted
from sweeper.memory.planner import Planner, StepMemory
from sweeper.memory.readings import ByteBudget, MemoryBackend, backend_for
from sweeper.memory.runtime import note_runtime
from sweeper.models import base
from sweeper.preflight.case import ModelShape
from sweeper.preflight.choices import has_dropout, ranks, target_choices
from sweeper.preflight.dimensions import dimensions_of, quantised_tensors
from sweeper.preflight.forecast import Lengths, MemoryForecast, extent
from sweeper.preflight.predictor import fitted
from sweeper.search.study import Search
from sweeper.trial import Rhythm, TrialParams
from sweeper.units import GIB
from sweeper.worker.workbench import Workbench

logger = logging.getLogger(__name__)
REHEARSED_SHARE = 0.5  # of the budget that the worst step may take before it is rehearsed
WORKER_MODULE = "sweeper.worker"
NOTABLY_MORE = 1.01
SLIGHTLY = 1e-3  # a violated constraint is above zero


@contextmanager
def guarded(config: Config, study_budget_bytes: int | None = None) -> Iterator[Guard]:
    """Watches the memory of the study's device within this context.

    Args:
        study_budget_bytes: what the study was begun with; there is no more for it on a larger device.
    """
    device = base.pick_device(config.engine.device)
    if device.type == "cpu":
        keep_freed_memory()
    begun_gib = [] if study_budget_bytes is None else [study_budget_bytes / GIB]
    ceilings_gib = _ceilings_gib(config)
    budget_gib = min([*ceilings_gib, *begun_gib], default=None)
    if config.memory.backend == "auto":
        with _watched(backend_for(device), config, budget_gib) as guard:
            yield guard
        return
    if device.type != "cpu":
        raise ModelError(
            f"memory.backend=tensors counts tensors one by one, for a CPU, but engine.device is {device}; "
            "leave memory.backend at auto"
        )
    total_bytes = int(min(ceilings_gib) * GIB) if ceilings_gib else psutil.virtual_memory().total
    limit_bytes = min(total_bytes, study_budget_bytes or total_bytes)
    limit_gib = min(begun_gib, default=None)
    with LiveBytes(limit_bytes) as live, _watched(ByteBudget(live, total_bytes), config, limit_gib) as guard:
        yield guard


def _ceilings_gib(config: Config) -> list[float]:
    return [gib for gib in (config.memory.budget_gib, config.gpu.memory_gib) if gib is not None]


@contextmanager
def _watched(backend: MemoryBackend, config: Config, budget_gib: float | None) -> Iterator[Guard]:
    reserve_gib = config.memory.reserve_gib if config.memory.backend == "auto" else 0.0
    guard = Guard(backend, budget_gib, reserve_gib, config.memory.watch_s)
    if guard.budget_bytes() <= guard.base_bytes:
        raise OutOfRoomError(
            f"the budget must be above what a worker holds before it has loaded anything, "
            f"{guard.base_bytes / GIB:.3g} GiB, but it is {guard.budget_bytes() / GIB:.3g} GiB; raise "
            "memory.budget_gib, or lower memory.reserve_gib"
        )
    backend.limit(guard.budget_bytes() - guard.runtime_bytes)
    with guard.watching():
        yield guard


def neighbours(guard: Guard) -> list[str]:
    """A line for each other process that holds memory on the device, or is a worker of an earlier run."""
    lines = []
    for holder in guard.backend.holders():
        size = f"{holder.used_bytes / GIB:.2f} GiB" if holder.used_bytes is not None else "memory"
        study = _study_of(holder.pid)
        who = f"a worker of the study {study!r}" if study else holder.name
        advice = "; if it is left from an earlier run, end it" if study else ""
        lines.append(f"{who} (pid {holder.pid}) holds {size} on the device{advice}")
    return lines


def _study_of(pid: int) -> str | None:
    """The study whose worker a process is."""
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return None
    return words[-1] if WORKER_MODULE in words[:-1] else None


def forecast_of(bench: Workbench, config: Config, guard: Guard, folder: Path) -> MemoryForecast:
    """What the study will take: by the formula as it stands where all of it fits by far, else fitted to traces.

    Args:
        folder: where what is known of memory is kept.
    """
    pack = bench.pack
    tensors = [*quantised_tensors(pack.model), *pack.model.parameters(), *pack.model.buffers()]
    if isinstance(guard.backend, ByteBudget) and isinstance(guard.backend.live, LiveBytes):
        guard.backend.live.add(tensors)  # what a loader's threads made
    dtype = base.compute_dtype(config.model, pack.stack.device)
    choices = target_choices(config)
    sizes = dimensions_of(pack.model, choices, dtype, has_dropout(config))
    machine = Machine(
        device=torch.cuda.get_device_name(pack.stack.device) if pack.stack.device.type == "cuda" else "cpu",
        driver=guard.backend.driver,
        attention=str(getattr(pack.model.config, "_attn_implementation", "")),
        dtype=str(dtype),
    )
    if config.memory.backend == "auto":
        note_runtime(folder, machine.device, guard.base_bytes)
    forecast = MemoryForecast(
        formula=Formula.generic(sizes, pack.stack.can_checkpoint),
        config=config,
        lengths=Lengths.of(
            pack.examples,
            [prompt for split in bench.splits for prompt in split.prompts],
            bench.task.room_tokens,
            bench.retention.full.longest if bench.retention is not None else 0,
            pack.replay,
        ),
        budget_bytes=guard.budget_bytes(),
        runtime_bytes=guard.base_bytes,
        is_on_host=pack.stack.device.type == "cpu",
        calibration=Calibration.load(config.memory.margin, machine, folder),
    )
    if forecast.most_bytes() > min(forecast.budget_bytes, guard.own_bytes() + guard.room_bytes()):
        plain, is_on_host = _plain(pack.model.config.get_text_config()), pack.stack.device.type == "cpu"
        shape = ModelShape(plain, _name(dtype), config.model.quant, choices, is_on_host)
        try:
            forecast.formula = fitted(shape, extent(config, forecast.lengths), folder)
        except ModelError as error:  # the formula as it stands is a bound as well, only a wide one
            logger.warning("%s", error)
        else:
            forecast.formula = Formula(sizes, forecast.formula.coefficients, is_traced=True)
    pack.planner.cost = forecast
    return forecast


def budget_of(search: Search) -> int | None:
    """The budget that a study was begun with, in bytes; None for one that has measured nothing yet."""
    attributes = search.attributes
    return attributes.get("budget_bytes") if "baseline" in attributes else None


def keep_budget(search: Search, forecast: MemoryForecast, guard: Guard) -> str | None:
    """Holds a study to the budget that it was begun with, for what is infeasible was told against that.

    So a trial that is told later, on another card, is comparable to those before.

    Returns:
        What a person should know where there is more here, or less.

    Raises:
        OutOfRoomError: if trials that fit into the study's budget would not fit here.
    """
    begun_bytes, here_bytes = budget_of(search), guard.budget_bytes()
    if begun_bytes is None:
        search.remember("budget_bytes", here_bytes)
        return None
    forecast.study_budget_bytes = begun_bytes
    begun = f"the memory budget that it was begun with, {begun_bytes / GIB:.4g} GiB"
    if here_bytes < begun_bytes:
        here = f"here are {here_bytes / GIB:.4g} GiB for it"
        if lost := forecast.ranks_between(here_bytes, begun_bytes):
            which = f"rank {lost[0]}" + (f" to {lost[-1]}" if len(lost) > 1 else "")
            raise OutOfRoomError(
                f"a study keeps {begun}, but {here}, and trials of {which} would fit into the one and not into the "
                "other; go on where there is as much (gpu.memory_gib, engine.device), or study.name=NEW starts another"
            )
        return f"the study keeps {begun}: {here}, and whatever fits into the one fits into the other"
    ceilings = [int(gib * GIB) for gib in _ceilings_gib(forecast.config)]
    offered_bytes = min([guard.backend.read().total_bytes - guard.reserve_bytes, *ceilings])
    if offered_bytes > begun_bytes * NOTABLY_MORE:
        return f"the study keeps {begun}, of {offered_bytes / GIB:.4g} GiB here"
    return None


def _plain(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = config.to_diff_dict()
    dropped = ("quantization_config", "architectures", "dtype", "torch_dtype", "_name_or_path", "transformers_version")
    return {"model_type": config.model_type, **{k: v for k, v in values.items() if k not in dropped}} | {
        "num_hidden_layers": config.num_hidden_layers
    }


def _name(dtype: torch.dtype) -> Any:
    return str(dtype).removeprefix("torch.")


def should_rehearse(config: Config, forecast: MemoryForecast) -> bool:
    """Whether the worst step comes first."""
    if config.memory.rehearse == "auto":
        return forecast.most_bytes() > REHEARSED_SHARE * forecast.budget_bytes
    return config.memory.rehearse


def rehearse(bench: Workbench, config: Config, log: MemoryLog) -> str:
    """Does the longest training step and the longest evaluation first, with adapters that are thrown away.

    What it takes is compared with what was expected, so that later predictions are better; what does not fit is cut
    smaller before any trial has begun.

    Returns:
        What it took, in words.
    """
    pack, planner, forecast = bench.pack, bench.pack.planner, log.forecast
    sampled: dict[str, object] = {"rank": ranks(config)[1], "target_modules": forecast.widest}
    params = config.trial_params(sampled)
    while params.rank > 1 and forecast(params)["vram"] > 0:  # the largest that is not rejected
        params = params.model_copy(update={"rank": params.rank // 2})
    every = [*range(len(pack.examples)), *(~passage for passage in range(len(pack.replay)))]
    rows = sorted(every, key=lambda row: -len(pack.example(row)))[: params.batch_size]
    rhythm = Rhythm(interval_examples=len(rows), evaluations=1, batch_size=len(rows))

    def work() -> tuple[int, StepMemory]:
        slots = _fill(bench, config, log, params, rhythm)
        pack.rehearse(rows)
        step = planner.step
        prompts = sorted(bench.validation.prompts, key=len)[-max(1, pack.chunk_tokens // forecast.lengths.longest) :]
        bench.score_prompts(prompts, list(range(slots)))
        if bench.retention is not None:
            bench.retention.rehearse(pack, list(range(slots)))
        return slots, step

    try:
        done = attempted(work)
    except OutOfRoomError as error:
        done = Failure(str(error))
    pack.clear()
    if isinstance(done, Failure):
        return f"the rehearsal of the longest step did not fit ({done.message}); trials will tell what does"
    log.measure_runtime()
    slots, step = done
    return (
        f"rehearsed the longest step with {slots} slots of rank {params.rank}: peak {step.peak_bytes / GIB:.3g} GiB, "
        f"expected {step.predicted_bytes / GIB:.3g}, of {step.budget_bytes / GIB:.3g} GiB, in {step.chunks} parts"
    )


def _fill(bench: Workbench, config: Config, log: MemoryLog, params: TrialParams, rhythm: Rhythm) -> int:
    """Fills the pack with new slots, as many as a study would have and memory allows; returns how many."""
    slots = 1
    while slots < config.most_slots and log.has_room(params, bench.pack.stack, slots + 1):
        slots += 1
    bench.pack.admit_alike(slots, params, rhythm)
    return slots


@dataclass
class MemoryLog:
    """What became of a session's memory, for whoever asks later."""

    guard: Guard
    planner: Planner
    forecast: MemoryForecast
    evictions: int = 0
    prunes: int = 0

    def is_pressed(self) -> bool:
        """Whether it is others on the device that leave too little, or did when something failed just now."""
        return self.guard.was_pressed()

    def has_room(self, params: TrialParams, stack: AdapterStack, trials: int = 1) -> bool:
        """Whether another trial, or so many, fit beside those that train."""
        forecast, after = self.forecast, stack.profile_with(params.rank, trials)
        added = forecast.held_bytes(after) - forecast.held_bytes(
            stack.held
        )  # what has left is held until it is settled
        # What those that train will yet hold, such as their best adapters on a host.
        missing = forecast.runtime_bytes + forecast.formula.base_bytes + forecast.held_bytes(after)
        return self.planner.has_room(max(added, missing - self.guard.own_bytes()) + forecast.least_bytes(after))

    def measure_runtime(self) -> None:
        """Takes in what the process holds beside tensors now that there has been work, for this study and for plans."""
        guard, calibration = self.guard, self.forecast.calibration
        before_bytes = guard.base_bytes
        guard.measure_runtime()
        if guard.base_bytes > before_bytes:
            self.forecast.runtime_bytes = guard.base_bytes
            guard.backend.limit(guard.budget_bytes() - guard.runtime_bytes)
            if calibration.file is not None and calibration.machine is not None:
                note_runtime(calibration.file.parent, calibration.machine.device, guard.base_bytes)

    def excess(self) -> float:
        """How far above the budget a peak was that did not fit: at the least by what is above zero."""
        return max(self.guard.peak_bytes() / self.guard.budget_bytes() - 1, SLIGHTLY)

    def in_words(self, failure: str) -> str:
        """What failed, with the memory around it."""
        words = self.guard.describe()
        return failure if "of its budget" in failure else f"{failure}; {words}"

    def readings(self) -> list[dict[str, float]]:
        """The latest readings, the oldest first."""
        return [moment.as_dict() for moment in list(self.guard.history)]

    def close(self, search: Search) -> None:
        """Adds what this session took to what is known of the study, and of the machine."""
        with search.in_turn:
            self._add(search)
        self.forecast.calibration.save()

    def _add(self, search: Search) -> None:
        before: dict[str, Any] = search.attributes.get("memory", {})
        ratios = self.planner.ratios
        rescues = {**before.get("rescues", {})}
        for work, count in self.planner.rescues.items():
            rescues[work] = rescues.get(work, 0) + count
        search.remember(
            "memory",
            {
                "backend": self.guard.backend.name,
                "budget_gib": self.guard.budget_bytes() / GIB,
                "peak_gib": max(before.get("peak_gib", 0.0), self.planner.highest_bytes / GIB),
                "steps": before.get("steps", 0) + len(ratios),
                "mean_ratio": _joined(before.get("mean_ratio"), before.get("steps", 0), ratios),
                "highest_ratio": max([before.get("highest_ratio", 0.0), *ratios]),
                "rescues": rescues,
                "evictions": before.get("evictions", 0) + self.evictions,
                "prunes": before.get("prunes", 0) + self.prunes,
                "is_traced": self.forecast.formula.is_traced,
            },
        )


def _joined(before: float | None, count: int, ratios: list[float]) -> float | None:
    """The mean of all ratios, of earlier sessions and this one."""
    if count + len(ratios) == 0:
        return None
    return ((before or 0.0) * count + sum(ratios)) / (count + len(ratios))
