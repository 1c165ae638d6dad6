"""What a configuration will take, before it is trained: the constraint `vram`, and admission to a pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sweeper.config.schema import Config
from sweeper.data.example import Example
from sweeper.memory.calibration import Calibration
from sweeper.memory.formula import BEST_COPY_BYTES, COPY_BYTES, MOMENT_BYTES, WEIGHT_AND_GRADIENT_BYTES, Formula, padded
from sweeper.memory.planner import ATTENTION_SHARE, Load, Profile, Work
from sweeper.preflight.case import Extent
from sweeper.preflight.choices import has_dropout, possible_ranks, ranks, target_choices
from sweeper.trial import TrialParams

VRAM = "vram"
FITTED_RANKS = (8, 128)  # at the least, so that studies of one base share its formula
SMALLEST_SHARE = 0.01  # of the budget, that a step takes which says how far a prediction is off


@dataclass(frozen=True)
class Lengths:
    """The rows of a study in tokens: what its memory depends on.

    Attributes:
        longest: of a training row, prompt and answer, or of a prompt that is scored.
        shortest: of a training row.
        answer: of the longest answer: the supervised tokens of a training row, or of a passage of replay.
        retention: of the longest item of the retention suite, which is scored alone.
    """

    longest: int
    shortest: int
    answer: int
    retention: int = 0

    @property
    def scored(self) -> int:
        """Of the longest sequence that is scored."""
        return max(self.longest, self.retention)

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        prompts: Sequence[Sequence[int]],
        room_tokens: int | None = None,
        retention: int = 0,
        replay: Sequence[Example] = (),
    ) -> Lengths:
        """Of training rows, and of prompts that are scored.

        Args:
            room_tokens: what is written behind each prompt; None: scoring reads a part of an answer there.
            retention: the longest item of the retention suite.
            replay: passages that are trained on beside the rows.
        """
        rows = [len(example) for example in (*examples, *replay)]
        answer = max(example.supervised_tokens for example in examples)
        longest = max(*rows, max(map(len, prompts)) + (room_tokens or answer))
        most = max([answer, *(passage.supervised_tokens for passage in replay)])
        return cls(longest=longest, shortest=min(rows), answer=most, retention=retention)


def extent(config: Config, lengths: Lengths) -> Extent:
    """The corners of what a study may ask for."""
    low, high = ranks(config)
    return Extent(
        ranks=(min(low, FITTED_RANKS[0]), max(high, FITTED_RANKS[1])),
        seqs=(max(4, min(lengths.shortest, lengths.longest // 2)), max(8, lengths.scored)),
        answer_tokens=lengths.answer,
        most_tokens=max(config.engine.chunk_tokens, lengths.scored),
        has_dropout=has_dropout(config),
    )


@dataclass
class MemoryForecast:
    """Foretells `vram`: the smallest peak of a configuration that trains alone, against the budget.

    That is one row at a time, recomputed where the study allows it: what does not fit then never fits. A neighbour's
    pressure is no part of it.

    Attributes:
        runtime_bytes: what the process holds beside tensors.
        budget_bytes: what it may hold.
        is_on_host: whether the device is the host: what leaves the one then stays in the same memory.
        calibration: of the part that comes and goes.
        study_budget_bytes: what `vram` is told against, where the study was begun with another budget.
    """

    formula: Formula
    config: Config
    lengths: Lengths
    budget_bytes: int
    runtime_bytes: int = 0
    is_on_host: bool = False
    calibration: Calibration = field(default_factory=lambda: Calibration(margin=0.0))
    study_budget_bytes: int | None = None
    keys = (VRAM,)

    def __call__(self, params: TrialParams) -> dict[str, float]:
        return {VRAM: self.solo_bytes(params) / (self.study_budget_bytes or self.budget_bytes) - 1}

    def solo_bytes(self, params: TrialParams) -> int:
        """The smallest peak of a trial alone; an upper bound."""
        profile, targets = ((padded(params.rank), 1),), params.target_modules
        base = self.runtime_bytes + self.formula.base_bytes
        return base + self.held_bytes(profile, targets) + self.least_bytes(profile, targets)

    def ranks_between(self, low_bytes: int, high_bytes: int) -> list[int]:
        """The ranks with which some trial of the study does not fit into the one budget, but into the other."""
        found = set()
        for rank, targets in product(possible_ranks(self.config), target_choices(self.config)):
            params = self.config.trial_params({"rank": rank, "target_modules": targets})
            if low_bytes < self.solo_bytes(params) <= high_bytes:
                found.add(rank)
        return sorted(found)

    def held_bytes(self, profile: Profile, targets: object = None) -> int:
        """What the slots of a pack hold between two steps.

        Args:
            targets: of the adapters; None: of the choice that takes the most, for each has what any of them targets.
        """
        ranks = sum(rank * slots for rank, slots in profile)
        values = self.formula.adapter_values(ranks, targets or self.widest)
        state = self.config.optimizer.state
        each = WEIGHT_AND_GRADIENT_BYTES + MOMENT_BYTES[state]
        if self.is_on_host:  # so are each trial's best adapter, and moments that are not on the device
            each += BEST_COPY_BYTES + (MOMENT_BYTES["device"] if state == "host" else 0)
        return int(values * each)

    def least_bytes(self, profile: Profile, targets: object = None) -> int:
        """The least that a step or an evaluation takes beyond that, one row at a time; an upper bound."""
        loads = (self.one_row(), Load(Work.SCORE, 1, self.lengths.scored))
        transient = max(self.transient_bytes(load, profile, targets) for load in loads)
        return max(transient, self.optimizer_bytes(profile, targets), self.moving_bytes(profile, targets))

    def optimizer_bytes(self, profile: Profile, targets: object = None) -> int:
        """What the optimizer's step takes."""
        return self.formula.optimizer_bytes(profile, targets or self.widest, self.config.optimizer.state)

    def moving_bytes(self, profile: Profile, targets: object = None) -> int:
        """What is there for a moment when a trial comes or goes, at the least."""
        of_one = of_all = 0.0
        if self.config.optimizer.state == "8bit":  # a slot's moments are made whole for it
            of_one = MOMENT_BYTES["device"] * max(rank for rank, _ in profile)
        if self.is_on_host:  # a bucket is rebuilt from copies of all its slots; one of a single slot just goes
            of_all = COPY_BYTES * max(rank * (slots + (slots > 1)) for rank, slots in profile)
        return int((of_one + of_all) * self.formula.adapter_values(1, targets or self.widest) / padded(1))

    @property
    def widest(self) -> Any:
        """The choice of target modules that takes the most."""
        return max(target_choices(self.config), key=lambda choice: self.formula.adapter_values(1, choice))

    def one_row(self) -> Load:
        """A training step of the longest row."""
        asked = self.config.engine.gradient_checkpointing
        is_checkpointed = self.formula.can_checkpoint and asked is not False
        return Load(Work.TRAIN, 1, self.lengths.longest, self.lengths.answer, is_checkpointed)

    def transient_bytes(self, load: Load, profile: Profile, targets: object = None) -> int:
        """What a load takes beyond what is there between two steps; an upper bound, by what was measured here."""
        return int(self.expected_bytes(load, profile, targets) * self.formula.bound * self.calibration.factor())

    def expected_bytes(self, load: Load, profile: Profile, targets: object = None) -> int:
        """The same as it is expected."""
        return self.formula.transient_bytes(load, profile, targets)

    def observe(self, expected_bytes: int, measured_bytes: int) -> None:
        """Takes in what a step took; small steps, whose fixed parts weigh most, say nothing."""
        if self.formula.is_traced and expected_bytes >= self.budget_bytes * SMALLEST_SHARE:
            self.calibration.observe(expected_bytes, measured_bytes)

    def pack_bytes(self, profile: Profile) -> int:
        """What a pack takes that does one row at a time."""
        return self.runtime_bytes + self.formula.base_bytes + self.held_bytes(profile) + self.least_bytes(profile)

    def most_bytes(self) -> int:
        """The peak of a full pack of the largest adapters in the largest chunk, all that the study may ask for."""
        _, high = ranks(self.config)
        slots = self.config.most_slots
        profile = ((padded(high), slots),)
        adapters = self.held_bytes(profile)
        # Without padding a chunk's attention takes somewhat more.
        tokens = max(int((1 + ATTENTION_SHARE) * self.config.engine.chunk_tokens), self.lengths.longest)
        rows = tokens // self.lengths.longest
        is_checkpointed = self.formula.can_checkpoint and self.config.engine.gradient_checkpointing is True
        loads = (
            Load(Work.TRAIN, rows, self.lengths.longest, rows * self.lengths.answer, is_checkpointed),
            Load(Work.SCORE, rows, self.lengths.longest),
            Load(Work.SCORE, max(1, tokens // self.lengths.scored), self.lengths.scored),
        )
        transient = max(self.transient_bytes(load, profile) for load in loads)
        # When a slot comes or goes, its bucket is there twice for a moment.
        transient = max(transient, adapters)
        return self.runtime_bytes + self.formula.base_bytes + adapters + transient
