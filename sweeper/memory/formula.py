"""The closed formula of a step's memory: exact for what stays, linear for what comes and goes.

What stays between two steps is counted: weights, adapters, gradients, moments. What a forward and a backward add is
taken to be linear in a few sizes (tokens × hidden, positions × vocabulary, …). The coefficients were fitted to traces
of six architectures (`tests/benchmarks/memory_formula.py`) and are right to within a factor. Fitted anew to traces of
one model, phase by phase, as `preflight.trace` does it, they are an upper bound within a few percent: a phase's peak is
a maximum of linear functions, so it is convex, and a linear function above it at the corners is above it in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.memory.planner import Load, Profile, Work

RANK_MULTIPLE = 8  # what adapters are padded to: grouped_mm wants strides of 16 bytes; see `ragged_matmul`
# Sizes of the engine's own work, which takes them from here.
HEAD_POSITIONS = 1024  # what goes through the output head at once
SCRATCH_BUFFER_BYTES = 2**23  # of a block of values, in float32, that the optimizer's step works on
QUANTISED_BLOCK = 256  # values that share a scale, as in bitsandbytes' own 8-bit optimizers
# Bytes for a value of an adapter: weight and gradient, and both moments where they are kept.
WEIGHT_AND_GRADIENT_BYTES = 8
COPY_BYTES = 12  # of an adapter in host memory: weight and both moments
BEST_COPY_BYTES = 4  # the weight alone, as of a trial's best evaluation
MOMENT_BYTES = {"device": 8.0, "host": 0.0, "8bit": 2 + 2 * 4 / QUANTISED_BLOCK}
SCRATCH_BUFFERS = {"device": 2, "host": 4, "8bit": 6}  # of the optimizer's step
STAGED_BYTES = {"device": 0.0, "host": 0.0, "8bit": 2 + 2 * 4 / QUANTISED_BLOCK}  # for a value, within the step
# What is done with a layer's activations until the backward; and scoring, which has no backward.
CHECKPOINTED, KEPT, SCORE = "checkpointed", "kept", "score"
MODES = (CHECKPOINTED, KEPT)
# The coefficients for a model that has not been traced, and what they are to be multiplied with to be a bound.
Coefficients = tuple[tuple[float, ...], ...]  # of each phase of a step; the highest counts
GENERIC: dict[str, Coefficients] = {
    CHECKPOINTED: ((2.253, 0.696, 0.0, 0.0, 4.254, 0.736, 0.749, 1.469, 0.709, 4.671, 1.078),),
    KEPT: ((0.0, 1.175, 0.0, 1.662, 3.13, 0.807, 0.849, 2.525, 0.257, 4.975, 0.0),),
    SCORE: ((1.572, 2.009, 0.765, 0.645, 0.778, 3.406, 3.924, 0.274, 0.0),),
}
GENERIC_BOUND = 2.7


@dataclass(frozen=True)
class Targeted:
    """What one choice of target modules adapts.

    Attributes:
        linears: a layer's.
        widths: the sum of inputs and outputs of all of them, in all layers: an adapter has so many values a rank.
        half: of these, the larger part: all inputs, or all outputs. The optimizer's scratch is of that size at most.
    """

    linears: float
    widths: int
    half: int


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a base that its memory depends on.

    Attributes:
        weights_4bit_bytes: with their scales.
        weights_other_bytes: embeddings, head, norms, biases and buffers.
        io: the sum of inputs and outputs of the linears of a layer.
        wide: of the widest linear.
        largest: the values of the largest linear, which is dequantised as a whole.
        targets: by `target_key`.
    """

    hidden: int
    layers: int
    vocabulary: int
    compute_bytes: int
    weights_4bit_bytes: int
    weights_other_bytes: int
    io: float
    wide: int
    largest: int
    targets: Mapping[str, Targeted]
    has_dropout: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dimensions:
        targets = {name: Targeted(**targeted) for name, targeted in values["targets"].items()}
        return cls(**{**values, "targets": targets})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def target_key(targets: Any) -> str:
    """A choice of target modules as a key."""
    return targets if isinstance(targets, str) else " ".join(targets)


def padded(rank: int) -> int:
    """The least rank that `rank` can be padded to."""
    return -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE


@dataclass(frozen=True)
class Formula:
    """What a base with adapters takes.

    Attributes:
        coefficients: by mode and phase, in the order of `features`; an architecture that cannot recompute has none
            for it.
        bound: what the coefficients are multiplied with to be an upper bound.
        is_traced: whether they were fitted to this base.
    """

    dimensions: Dimensions
    coefficients: Mapping[str, Coefficients]
    bound: float = 1.0
    is_traced: bool = False

    @classmethod
    def generic(cls, dimensions: Dimensions, can_checkpoint: bool = True) -> Formula:
        """For a base that has not been traced."""
        known = {mode: values for mode, values in GENERIC.items() if can_checkpoint or mode != CHECKPOINTED}
        return cls(dimensions, known, GENERIC_BOUND)

    @property
    def can_checkpoint(self) -> bool:
        return CHECKPOINTED in self.coefficients

    @property
    def base_bytes(self) -> int:
        return self.dimensions.weights_4bit_bytes + self.dimensions.weights_other_bytes

    def adapter_values(self, rank: int, targets: Any) -> int:
        """The values of an adapter, as it is padded."""
        return padded(rank) * self.dimensions.targets[target_key(targets)].widths

    def optimizer_bytes(self, profile: Profile, targets: Any, optimizer_state: str) -> int:
        """What the optimizer's step takes beside: scratch for a block of any bucket, and what all of them stage."""
        targeted = self.dimensions.targets[target_key(targets)]
        half = max(rank * slots for rank, slots in profile) * targeted.half
        scratch = SCRATCH_BUFFERS[optimizer_state] * min(SCRATCH_BUFFER_BYTES, 4 * half)
        values = sum(rank * slots for rank, slots in profile) * targeted.widths
        return int(scratch + values * STAGED_BYTES[optimizer_state])

    def transient_bytes(self, load: Load, profile: Profile, targets: Any = None) -> int:
        """What a load takes beyond what stays; `bound` times as much is an upper bound.

        Args:
            targets: of the adapters; None: of the choice that takes the most.
        """
        keys = [target_key(targets)] if targets is not None else list(self.dimensions.targets)
        mode = mode_of(load)
        most = 0.0
        for key in keys:
            values = features(self.dimensions, load, profile, self.dimensions.targets[key])
            for phase in self.coefficients[mode]:
                most = max(most, sum(c * x for c, x in zip(phase, values, strict=True)))
        if len(profile) > 1:
            # What each bucket adds to a layer's output is put together: it is there twice for a moment.
            each = self.dimensions.compute_bytes if load.work is Work.TRAIN else 4
            most += each * load.tokens * self.dimensions.wide
        if load.work is Work.GENERATE:
            # Keys and values of all layers, at the most as wide as the hidden state.
            most += 2 * self.dimensions.layers * load.rows * load.seq * self.dimensions.hidden * 4
        return int(most)

    def as_dict(self) -> dict[str, Any]:
        return {
            "dimensions": self.dimensions.as_dict(),
            "coefficients": {mode: list(map(list, phases)) for mode, phases in self.coefficients.items()},
            "bound": self.bound,
            "is_traced": self.is_traced,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Formula:
        coefficients = {mode: tuple(map(tuple, phases)) for mode, phases in values["coefficients"].items()}
        return cls(Dimensions.from_dict(values["dimensions"]), coefficients, values["bound"], values["is_traced"])


def mode_of(load: Load) -> str:
    if load.work is not Work.TRAIN:
        return SCORE
    return CHECKPOINTED if load.is_checkpointed else KEPT


def features(d: Dimensions, load: Load, profile: Profile, targeted: Targeted) -> tuple[float, ...]:
    """The sizes, in bytes, that a load's memory is linear in."""
    tokens, width = load.tokens, d.compute_bytes
    rank = max((rank for rank, _ in profile), default=0)
    ranks = sum(rank * slots for rank, slots in profile)
    # A layer's adapters are copied: B is scaled, and both are cast where the computation has another precision.
    copies = ranks * targeted.widths / d.layers * width
    if load.work is not Work.TRAIN:
        return (
            4 * tokens * d.wide,
            width * tokens * d.hidden,
            width * tokens * d.wide,
            width * d.largest,
            4 * load.rows * d.vocabulary,
            width * tokens * load.seq,
            4 * tokens * rank,
            4 * ranks * d.wide,
            4 * tokens * d.hidden,
        )
    kept_layers = 1 if load.is_checkpointed else d.layers
    positions = min(load.supervised, HEAD_POSITIONS)
    adapted = targeted.widths / d.layers
    return (
        width * tokens * d.hidden * d.layers if load.is_checkpointed else 0.0,
        width * tokens * d.io * kept_layers,
        width * tokens * adapted * kept_layers,
        width * tokens * d.hidden * kept_layers,
        width * tokens * rank * targeted.linears * kept_layers,
        copies * kept_layers,
        width * d.largest,
        4 * positions * d.vocabulary,
        width * tokens * adapted * kept_layers if d.has_dropout else 0.0,
        width * tokens * load.seq,
        width * tokens * d.wide,
    )
