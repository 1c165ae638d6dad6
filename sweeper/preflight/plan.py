"""`sweeper plan`: what a study will take, before anything is loaded; from the model's configuration alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sweeper.config.schema import Config
from sweeper.config.space import Parameter, Range, bounds, condition_of, values_of
from sweeper.config.teaching import WrittenSection
from sweeper.custom import own
from sweeper.data import rows as data_rows
from sweeper.errors import DataError, ModelError, OutOfRoomError
from sweeper.memory.calibration import Calibration
from sweeper.memory.formula import HEAD_POSITIONS, Formula, padded
from sweeper.memory.nvml import NvmlUnavailable, card_at
from sweeper.memory.planner import Load, Work
from sweeper.memory.readings import HostBackend
from sweeper.memory.runtime import known_runtime
from sweeper.models import hub, origin
from sweeper.paths import Home
from sweeper.preflight.case import ModelShape
from sweeper.preflight.disk import Room
from sweeper.preflight.forecast import Lengths, MemoryForecast, extent, ranks, target_choices
from sweeper.preflight.model import foresee
from sweeper.preflight.predictor import fitted
from sweeper.search.views import begun
from sweeper.units import GIB

ROWS = (1, 2, 4, 8, 16, 32)
MOST_RANKS = 5
SAMPLES = 64  # of a range, for its infeasible share
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Card:
    """The device that is planned for."""

    name: str
    total_gib: float
    is_cuda: bool
    price_usd_per_hour: float | None


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

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "disks": [room.as_dict() for room in self.disks]}


def plan(config: Config, home: Home) -> Plan:
    """Plans a study.

    Raises:
        ModelError: if there is no configuration of the model, or it cannot be traced.
        OutOfRoomError: if not even the base fits.
    """
    home.create()
    card = pick_card(config)
    lengths, are_measured = _lengths(config, home)
    choices = target_choices(config)
    shape = ModelShape(model_config(config, home), _dtype(config, card), config.model.quant, choices)
    formula = fitted(shape, extent(config, lengths), home.memory)
    if config.engine.gradient_checkpointing is True and not formula.can_checkpoint:
        raise ModelError(
            "engine.gradient_checkpointing must be false for a model that does not support it, but it is true and "
            f"{config.model.name} does not; auto is for both"
        )
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
        are_lengths_measured=are_measured,
        cells=cells,
        micro_batch_rows={rank: _most(lambda n, rank=rank: _cell(forecast, rank, n, widest).fits) for rank in known},
        slots={rank: _most(lambda n, rank=rank: _fits_together(forecast, rank, n, widest), 256) for rank in known},
        infeasible=infeasible,
        infeasible_share=share,
        disks=disks,
        notes=notes,
    )


def pick_card(config: Config) -> Card:
    """The card that the configuration names, or the one that is there, or this machine's memory.

    Raises:
        ModelError: if `engine.device` is a card that is not there, and none is named.
    """
    section, device = config.gpu, config.engine.device
    if device != "cpu":
        if section.memory_gib is not None:
            return Card(section.card or section.name, section.memory_gib, True, section.price_usd_per_hour)
        try:
            name, total_bytes = card_at(int(device.partition(":")[2] or 0) if device != "auto" else 0)
            return Card(name, total_bytes / GIB, True, section.price_usd_per_hour)
        except NvmlUnavailable as error:
            if device != "auto":
                raise ModelError(
                    f"engine.device: {device} is not on this machine ({error}); for one that is elsewhere, name the "
                    "card, such as gpu=rtx-4090"
                ) from error
    return Card("this machine's memory", HostBackend().read().total_bytes / GIB, False, section.price_usd_per_hour)


def _dtype(config: Config, card: Card) -> Literal["float32", "bfloat16", "float16"]:
    if config.model.dtype != "auto":
        return config.model.dtype
    # Or float16, on a card without bfloat16: as many bytes.
    return "bfloat16" if card.is_cuda else "float32"


def model_config(config: Config, home: Home) -> dict[str, Any]:
    """The transformers configuration of a study's model, from its folder, the Hub's cache, or conf/model.

    Raises:
        ModelError: if there is none, or it is not one.
    """
    folder = model_folder(config, home)
    if folder is not None:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    elif config.model.config is not None:
        values = dict(config.model.config)
    else:
        values = _from_hub(config)
    values = values.get("text_config", values)
    for key in ("model_type", "num_hidden_layers"):
        if key not in values:
            raise ModelError(
                f"a model's transformers configuration must have {key}, but that of {config.model.name} has none"
            )
    dropped = ("quantization_config", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
    return {key: value for key, value in values.items() if key not in dropped}


def model_folder(config: Config, home: Home) -> Path | None:
    """Where the model lies on this machine; None where it does not."""
    source = origin.find(config.model)
    folder = source.path
    if source.kind == "gguf" and folder is not None:
        folder = origin.conversion(folder, config.model.name, home.models)
    return folder if folder is not None and (folder / "config.json").is_file() else None


def _from_hub(config: Config) -> dict[str, Any]:
    try:
        return dict(hub.snapshot(config.model).config)
    except ModelError as error:
        raise ModelError(f"{error}; or give its transformers configuration as model.config") from None


def _lengths(config: Config, home: Home) -> tuple[Lengths, bool]:
    """The lengths of the rows: measured where data and tokenizer are on this machine, else the most there can be."""
    try:
        name = config.study.name
        data = data_rows.of(config, home.study(name).splits if begun(home, name) else None, own.load(config))
    except DataError:
        if config.data.source != "hub":
            raise
        data = None  # not cached: the limits stand
    folder = model_folder(config, home)
    if data is None or folder is None or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        longest_answer = len(data.longest_answer.encode()) if data is not None else 16
        # No tokenizer has more tokens than bytes; one more ends the answer.
        most = config.prompt.max_tokens
        answer, retention = min(most // 2, longest_answer + 2), config.retention.max_tokens * config.retention.is_on
        return Lengths(longest=most, shortest=max(8, most // 8), answer=answer, retention=retention), False
    from sweeper.data import long
    from sweeper.data.prompt import renderer
    from sweeper.models.base import load_tokenizer
    from sweeper.retention.watch import Watch

    tokenizer = load_tokenizer(config.model, home)
    rendered = renderer(config, tokenizer, data.labels)
    data = long.fit(rendered, data, config.data.long).data
    examples = rendered.examples(data.train)
    selected = data_rows.stratified(data.validation, config.evaluation.rows, config.train.seed)  # as a worker does
    prompts = [*rendered.prompts(selected), *rendered.prompts(data.test)]
    room = config.task.max_new_tokens if isinstance(config.task, WrittenSection) else None
    retention = Watch(config.retention, tokenizer).full.longest if config.retention.is_on else 0
    return Lengths.of(examples, prompts, room, retention), True


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
