"""`sweeper plan`: what a study will take, before anything is loaded; from the model's configuration alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sweeper.config.schema import Config
from sweeper.config.space import Parameter, Range, bounds, condition_of, values_of
from sweeper.errors import ModelError, OutOfRoomError
from sweeper.memory.calibration import Calibration
from sweeper.memory.formula import HEAD_POSITIONS, Formula, padded
from sweeper.memory.planner import Load, Work
from sweeper.memory.runtime import known_runtime
from sweeper.paths import Home
from sweeper.preflight.architecture import Widths, model_config
from sweeper.preflight.card import Card, dtype_of, pick_card
from sweeper.preflight.case import ModelShape
from sweeper.preflight.choices import ranks, target_choices
from sweeper.preflight.cost import CostEstimate, estimate
from sweeper.preflight.disk import Room
from sweeper.preflight.forecast import MemoryForecast, extent
from sweeper.preflight.full_fine_tune import FullFineTune, full_fine_tune
from sweeper.preflight.model import foresee
from sweeper.preflight.predictor import fitted
from sweeper.preflight.volume import read
from sweeper.units import GIB

ROWS = (1, 2, 4, 8, 16, 32)
MOST_RANKS = 5
SAMPLES = 64  # of a range, for its infeasible share


@dataclass(frozen=True)
class Cell:
    """One slot of a rank with so many rows at once: its peak, and what makes it up."""

    rank: int
    rows: int
    tokens: int
    is_checkpointed: bool
    peak_gib: float
    fits: bool
    terms_gib: dict[str, float]


@dataclass(frozen=True)
class Infeasible:
    """What of the space cannot be trained on this card at all."""

    target_modules: str
    ranks: list[int]
    smallest_peak_gib: float
    share: float


@dataclass(frozen=True)
class Plan:
    """What a study will take.

    Attributes:
        runtime_gib: what the process holds beside tensors; None: not measured on this device yet.
        micro_batch_rows: by rank, the most of the longest rows that go through at once.
        slots: by rank, the most trials that train together, one row at a time.
        infeasible_share: of the configurations of the space.
        disks: what a launch writes, by file system.
        notes: what a launch would say of the base.
        cost: in seconds and dollars.
        full_fine_tune: what training all weights would need, for comparison.
    """

    study: str
    model: str
    card: Card
    budget_gib: float
    reserve_gib: float
    runtime_gib: float | None
    longest_row_tokens: int
    answer_tokens: int
    are_lengths_measured: bool
    cells: list[Cell]
    micro_batch_rows: dict[int, int]
    slots: dict[int, int]
    infeasible: list[Infeasible]
    infeasible_share: float
    disks: list[Room]
    notes: list[str]
    cost: CostEstimate
    full_fine_tune: FullFineTune

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "disks": [room.as_dict() for room in self.disks], "cost": self.cost.as_dict()}


def plan(config: Config, home: Home) -> Plan:
    """Plans a study.

    Raises:
        ConfigError: if dollars are to be counted, and there is no price.
        ModelError: if there is no configuration of the model, or it cannot be traced.
        OutOfRoomError: if not even the base fits.
    """
    home.create()
    card = pick_card(config)
    reading = read(config, home)
    lengths = reading.lengths
    cost = estimate(config, home, reading)  # before the trace, which takes longer: it may have something to refuse
    choices = target_choices(config)
    model = model_config(config, home)
    shape = ModelShape(model, dtype_of(config, card), config.model.quant, choices, not card.is_cuda)
    formula = fitted(shape, extent(config, lengths), home.memory)
    if config.engine.gradient_checkpointing is True and not formula.can_checkpoint:
        raise ModelError(
            "engine.gradient_checkpointing must be false for a model that does not support it, but it is true and "
            f"{config.model.name} does not; auto is for both"
        )
    budget_bytes, reserve_gib, runtime_bytes = _budget(config, home, card, formula)
    calibration = Calibration(config.memory.margin)
    is_on_host = not card.is_cuda
    forecast = MemoryForecast(formula, config, lengths, budget_bytes, runtime_bytes or 0, is_on_host, calibration)
    known = _some_ranks(config)
    widest = forecast.widest
    cells = [_cell(forecast, rank, count, widest) for rank in known for count in ROWS]
    infeasible, share = _infeasible(forecast, choices)
    disks, notes = foresee(config, home)
    return Plan(
        study=config.study.name,
        model=config.model.name,
        card=card,
        budget_gib=budget_bytes / GIB,
        reserve_gib=reserve_gib,
        runtime_gib=None if runtime_bytes is None else runtime_bytes / GIB,
        longest_row_tokens=lengths.longest,
        answer_tokens=lengths.answer,
        are_lengths_measured=reading.are_measured,
        cells=cells,
        micro_batch_rows={rank: _most(lambda n, rank=rank: _cell(forecast, rank, n, widest).fits) for rank in known},
        slots={rank: _most(lambda n, rank=rank: _fits_together(forecast, rank, n, widest), 256) for rank in known},
        infeasible=infeasible,
        infeasible_share=share,
        disks=disks,
        notes=notes,
        cost=cost,
        full_fine_tune=full_fine_tune(config, card, Widths.of(model), formula, lengths, cost),
    )


def _budget(config: Config, home: Home, card: Card, formula: Formula) -> tuple[int, float, int | None]:
    """What a study may take of a card in bytes, what is left free of it in GiB, and what CUDA takes in bytes, if known.

    Raises:
        OutOfRoomError: if not even the base fits.
    """
    counts_tensors = config.memory.backend == "tensors" and not card.is_cuda  # and nothing beside them
    reserve_gib = 0.0 if counts_tensors else config.memory.reserve_gib
    runtime_bytes = 0 if counts_tensors else known_runtime(home.memory, card.name if card.is_cuda else "cpu")
    total_bytes = int((card.total_gib - reserve_gib) * GIB)
    if total_bytes <= 0:
        raise OutOfRoomError(
            f"memory.reserve_gib must leave something of {card.name}, but it is {reserve_gib:g} and that has "
            f"{card.total_gib:.3g} GiB; lower it"
        )
    limits = [int(gib * GIB) for gib in (config.memory.budget_gib, config.gpu.memory_gib) if gib is not None]
    budget_bytes = min([total_bytes, *limits])
    if budget_bytes <= (runtime_bytes or 0) + formula.base_bytes:
        raise OutOfRoomError(
            f"the base must fit into the budget, but {config.model.name} takes "
            f"{(formula.base_bytes + (runtime_bytes or 0)) / GIB:.3g} GiB and the budget is {budget_bytes / GIB:.3g} "
            f"GiB on {card.name}; take a smaller model, a larger card, or raise memory.budget_gib"
        )
    return budget_bytes, reserve_gib, runtime_bytes


def _some_ranks(config: Config) -> list[int]:
    """The ranks of the space; of a range, some."""
    low, high = ranks(config)
    searched = config.search.space.get("rank")
    known = sorted({low, high, *(int(str(value)) for value in (values_of(searched) if searched else None) or [])})
    if searched is not None and isinstance(searched, Range):
        known = sorted({low, high, *(2**power for power in range(11) if low < 2**power < high)})
    places = min(len(known), MOST_RANKS) - 1
    return [known[place * (len(known) - 1) // places] for place in range(places + 1)] if places else known


def _cell(forecast: MemoryForecast, rank: int, rows: int, targets: Any) -> Cell:
    """One slot; recomputed where the study allows it and it does not fit without."""
    asked = forecast.config.engine.gradient_checkpointing
    modes = {True: [True], False: [False], "auto": [False, True]}[asked]
    cells = [
        _cell_in_mode(forecast, rank, rows, targets, is_checkpointed)
        for is_checkpointed in modes
        if forecast.formula.can_checkpoint or not is_checkpointed
    ]
    return next((cell for cell in cells if cell.fits), cells[-1])


def _cell_in_mode(forecast: MemoryForecast, rank: int, rows: int, targets: Any, is_checkpointed: bool) -> Cell:
    formula, lengths = forecast.formula, forecast.lengths
    load = Load(Work.TRAIN, rows, lengths.longest, rows * lengths.answer, is_checkpointed)
    profile = ((padded(rank), 1),)
    transient = formula.transient_bytes(load, profile, targets)
    adapters = forecast.held_bytes(profile, targets)
    # What comes and goes: in a step, in the optimizer, or when a trial leaves. The largest is the peak.
    others = {
        "optimizer_scratch": forecast.optimizer_bytes(profile, targets),
        "copies": forecast.moving_bytes(profile, targets),
    }
    name = max(others, key=others.__getitem__)
    terms = {
        "context": forecast.runtime_bytes,
        "weights_4bit": formula.dimensions.weights_4bit_bytes,
        "weights_other": formula.dimensions.weights_other_bytes,
        "adapters_and_optimizer": adapters,
        **({name: others[name]} if others[name] > transient else _split(formula, load, transient)),
    }
    peak = sum(terms.values())
    upper = peak - max(transient, others[name])
    upper += max(forecast.transient_bytes(load, profile, targets), others[name])
    return Cell(
        rank=rank,
        rows=rows,
        tokens=rows * lengths.longest,
        is_checkpointed=is_checkpointed,
        peak_gib=peak / GIB,
        fits=upper <= forecast.budget_bytes,
        terms_gib={name: size / GIB for name, size in terms.items()},
    )


def _split(formula: Formula, load: Load, transient: int) -> dict[str, int]:
    """What comes and goes, at its peak: that is in the head, or in the backward of a layer."""
    sizes = formula.dimensions
    name = "checkpoints" if load.is_checkpointed else "activations"
    tokens = load.rows * load.seq
    # A kept layer's activations are no number that the configuration says; a checkpoint is one hidden state.
    kept = sizes.compute_bytes * tokens * sizes.hidden * sizes.layers if load.is_checkpointed else None
    logits = int(2.5 * 4 * min(load.supervised, HEAD_POSITIONS) * sizes.vocabulary)
    dequantised = min(transient, sizes.compute_bytes * sizes.largest if sizes.weights_4bit_bytes else 0)
    rest = transient - min(transient, kept or 0)
    if kept is not None and logits < rest - dequantised:
        return {name: min(transient, kept), "recompute": rest - dequantised, "dequantisation": dequantised}
    if kept is not None:
        return {name: min(transient, kept), "logits": rest}
    logits = min(logits, transient)
    return {name: transient - logits, "logits": logits}


def _fits_together(forecast: MemoryForecast, rank: int, slots: int, targets: Any) -> bool:
    """Whether so many slots fit, one row at a time."""
    profile = ((padded(rank), slots),)
    held = forecast.runtime_bytes + forecast.formula.base_bytes + forecast.held_bytes(profile, targets)
    return held + forecast.least_bytes(profile, targets) <= forecast.budget_bytes


def _most(fits: Any, limit: int = 1024) -> int:
    """The largest number that fits, of those up to `limit`; 0 where one does not."""
    if not fits(1):
        return 0
    low, high = 1, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _infeasible(forecast: MemoryForecast, choices: tuple[Any, ...]) -> tuple[list[Infeasible], float]:
    """What does not fit even alone, one row at a time, by target modules; and its share of the space."""
    config = forecast.config
    drawn = _drawn_ranks(config)
    found, total = [], 0
    for choice in choices:
        peaks = {}
        for rank in sorted(set(drawn)):
            params = config.trial_params({"rank": rank, "target_modules": choice})
            peaks[rank] = forecast.solo_bytes(params)
        beyond = [rank for rank in peaks if peaks[rank] > forecast.budget_bytes]
        count = sum(rank in beyond for rank in drawn)
        total += count
        if beyond:
            name = choice if isinstance(choice, str) else ", ".join(choice)
            found.append(Infeasible(name, beyond, peaks[beyond[0]] / GIB, count / len(drawn)))
    return found, total / (len(drawn) * len(choices))


def _drawn_ranks(config: Config) -> list[int]:
    """Ranks as a random sampler would draw them, evenly."""
    searched: Parameter | None = config.search.space.get("rank")
    if searched is None:
        return [config.lora.rank]
    fixed = [config.lora.rank] if condition_of(searched) else []
    known = values_of(searched)
    if known is not None:
        return [*fixed, *(int(str(value)) for value in known)]
    low, high = bounds(searched)
    parts = [(place + 0.5) / SAMPLES for place in range(SAMPLES)]
    is_log = isinstance(searched, Range) and searched.log
    return fixed + [round(low * (high / low) ** part if is_log else low + (high - low) * part) for part in parts]
