"""How much goes through the model at once, so that it fits into the memory that is there.

Before every chunk its peak is predicted, and the chunk is made as large as fits: fewer rows together first, then
gradient checkpointing. The effective batch does not change, and so neither does the result. Where memory runs out
all the same, the pack repeats the step from unchanged state, and the planner makes what it repeats smaller.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Literal, Protocol

from sweeper.errors import OutOfRoomError
from sweeper.memory.guard import Guard
from sweeper.memory.oom import free_caches
from sweeper.units import GIB

GradientCheckpointing = Literal["auto", True, False]
MAX_RETRIES = 3  # of a step that cannot be made smaller: a neighbour's peak may pass
RETRY_PAUSE_S = 0.2
FREE_EVERY_S = 10.0
ATTENTION_SHARE = 0.25  # of what a layer keeps of a token: queries, keys, values and result
RECOVERY_STEPS = 16  # without a failure, until what was made smaller may grow to twice its size again


class Work(StrEnum):
    """What takes memory."""

    TRAIN = "train"
    OPTIMIZER = "optimizer"
    SCORE = "score"
    GENERATE = "generate"


@dataclass(frozen=True)
class Load:
    """One forward, with its backward in training."""

    work: Work
    rows: int
    seq: int  # tokens of the longest row, with what is written to it
    supervised: int = 0  # positions with a loss
    is_checkpointed: bool = False
    unpadded: int | None = None  # tokens of all rows, where they stand one behind another; None: padded to the longest

    @property
    def tokens(self) -> int:
        """What goes through a layer; without padding, with what attention adds, which lays like rows side by side."""
        padded = self.rows * self.seq
        if self.unpadded is None:
            return padded
        return self.unpadded + int(ATTENTION_SHARE * min(padded - self.unpadded, self.unpadded))


# How many slots there are at each padded rank, bucket by bucket.
Profile = tuple[tuple[int, int], ...]


class Cost(Protocol):
    """What a load takes beyond what is there between two steps."""

    def expected_bytes(self, load: Load, profile: Profile) -> int:
        """As it is expected."""

    def transient_bytes(self, load: Load, profile: Profile) -> int:
        """An upper bound."""

    def optimizer_bytes(self, profile: Profile) -> int:
        """What the optimizer's step takes."""

    def observe(self, expected_bytes: int, measured_bytes: int) -> None:
        """Takes in what a step took, beside what was expected of it."""


@dataclass(frozen=True)
class Part:
    """The next part of what is to be done: so many of the longest rows."""

    rows: int
    is_checkpointed: bool


@dataclass
class StepMemory:
    """What one step took, by the readings."""

    chunks: int = 0
    rescues: int = 0
    own_bytes: int = 0  # before it
    expected_bytes: int = 0  # beyond that
    predicted_bytes: int = 0
    peak_bytes: int = 0
    budget_bytes: int = 0

    def metrics(self) -> dict[str, float]:
        return {
            "vram/peak_gib": self.peak_bytes / GIB,
            "vram/predicted_gib": self.predicted_bytes / GIB,
            "vram/headroom_gib": (self.budget_bytes - self.peak_bytes) / GIB,
            "vram/chunks": self.chunks,
        }


@dataclass
class Planner:
    """Cuts the work of one pack.

    Attributes:
        guard: the readings; without it, nothing is known of memory, and only failures make chunks smaller.
        cost: what a load takes; without it, every load is taken to fit.
        gradient_checkpointing: `auto` turns it on where one row does not fit without.
        step: what the latest training step took.
        highest_bytes: the highest peak of all training steps.
        rescues: how often memory ran out, and the step was repeated, by what was at work.
    """

    guard: Guard | None = None
    cost: Cost | None = None
    gradient_checkpointing: GradientCheckpointing = False
    step: StepMemory = field(default_factory=StepMemory)
    highest_bytes: int = 0
    ratios: list[float] = field(default_factory=list)  # of a step's peak to its prediction, step by step
    rescues: dict[str, int] = field(default_factory=dict)
    _at: Load | None = None  # what was being done when memory ran out
    _limits: dict[Work, int] = field(default_factory=dict)  # tokens, after a failure
    _must_checkpoint: bool = False  # after a failure
    _may_checkpoint: bool = False
    _steps: int = 0  # since the latest failure
    _retries: int = 0  # of what cannot be made smaller
    _freed_s: float = -math.inf  # time.monotonic

    def begin(self) -> None:
        """A training step begins."""
        self.step = StepMemory()
        self._at = Load(Work.TRAIN, 0, 0)
        if self.guard is not None:
            self.guard.backend.reset_peak()
            self.step.own_bytes = self.guard.own_bytes()

    def end(self) -> None:
        """A training step is done."""
        self.forgive()
        self._steps += 1
        if self._steps % RECOVERY_STEPS == 0:
            self._limits = {work: 2 * limit for work, limit in self._limits.items()}
            self._must_checkpoint = False
        if self.guard is not None:
            self.step.peak_bytes = self.guard.peak_bytes()
            self.step.budget_bytes = self.guard.budget_bytes()
            self.highest_bytes = max(self.highest_bytes, self.step.peak_bytes)
            if self.cost is not None and self.step.rescues == 0 and self.guard.backend.is_exact:
                self.ratios.append(self.step.peak_bytes / max(1, self.step.predicted_bytes))
                self.cost.observe(self.step.expected_bytes, self.step.peak_bytes - self.step.own_bytes)

    def part(
        self,
        work: Work,
        lengths: Sequence[int],
        profile: Profile,
        most_tokens: int,
        supervised: Sequence[int] | None = None,
        can_checkpoint: bool = False,
        is_padded: bool = True,
    ) -> Part:
        """How many of the rows go together, from the first, the longest.

        Args:
            lengths: tokens of each row, descending, with what is to be written to it.
            most_tokens: padding included.
            supervised: positions with a loss, by row.
            is_padded: whether rows are padded to the longest; else they stand one behind another.
        """
        seq, limit = lengths[0], min(most_tokens, self._limits.get(work, most_tokens))
        whole = list(accumulate(lengths))
        most = max(1, min(len(lengths), limit // seq) if is_padded else bisect_right(whole, limit))
        answers = list(accumulate(supervised or [0] * most))
        self._may_checkpoint = can_checkpoint and self.gradient_checkpointing == "auto"
        is_asked = self.gradient_checkpointing is True or self._must_checkpoint
        is_checkpointed = work is Work.TRAIN and can_checkpoint and is_asked

        def load(rows: int) -> Load:
            unpadded = None if is_padded else whole[rows - 1]
            return Load(work, rows, seq, answers[rows - 1], is_checkpointed, unpadded)

        rows = self._fitting(load, most, profile)
        if rows == 0 and work is Work.TRAIN and can_checkpoint and self.gradient_checkpointing == "auto":
            is_checkpointed = True
            rows = self._fitting(load, most, profile)
        # One row at least: the prediction is an upper bound, and the rescue stands behind it.
        self._at = load(max(1, rows))
        if work is Work.TRAIN:
            self.step.chunks += 1
            if self.cost is not None:
                self._expect(self.cost.expected_bytes(self._at, profile))
        return Part(self._at.rows, is_checkpointed)

    def _fitting(self, load: Callable[[int], Load], most: int, profile: Profile) -> int:
        """The most rows whose load fits; 0 where one does not."""
        if self.guard is None or self.cost is None:
            return most
        needed_bytes = self.cost.transient_bytes(load(most), profile)
        room_bytes = self._room_bytes(self.guard, needed_bytes)
        if needed_bytes <= room_bytes:
            return most
        # Between `fits` and `too_many` lies the answer.
        fits, too_many = 0, most
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.cost.transient_bytes(load(middle), profile) <= room_bytes:
                fits = middle
            else:
                too_many = middle
        return fits

    def _room_bytes(self, guard: Guard, needed_bytes: int) -> int:
        """What may still be held; where that is too little, after the C library has given back what it keeps."""
        room_bytes = guard.room_bytes()
        is_due = time.monotonic() > self._freed_s + FREE_EVERY_S  # it takes as long as a small chunk
        if needed_bytes > room_bytes and not guard.backend.is_exact and is_due:
            free_caches()  # a process's resident set has what is kept of tensors that are gone
            self._freed_s = time.monotonic()
            return guard.room_bytes()
        return room_bytes

    def _expect(self, size_bytes: int) -> None:
        if self.guard is not None:
            self.step.expected_bytes = max(self.step.expected_bytes, size_bytes)
            self.step.predicted_bytes = self.step.own_bytes + self.step.expected_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether so much more may be held."""
        return self.guard is None or size_bytes <= self._room_bytes(self.guard, size_bytes)

    def optimize(self, profile: Profile) -> None:
        """The optimizer's step begins, which cannot be cut."""
        self._at = Load(Work.OPTIMIZER, 0, 0)
        if self.cost is not None:
            self._expect(self.cost.optimizer_bytes(profile))

    def forgive(self) -> None:
        """What was done will not be repeated: what follows has all its retries."""
        self._retries = 0

    def forget_failures(self) -> None:
        """What follows is other work: it is cut by what is foretold alone."""
        self._limits.clear()
        self._must_checkpoint = False

    def rescue(self, failure: str) -> None:
        """Memory ran out: frees what can be freed and makes what follows smaller.

        Raises:
            OutOfRoomError: if it cannot be made smaller, and waiting did not help.
        """
        at = self._at
        assert at is not None
        self._steps = 0
        self.rescues[at.work] = self.rescues.get(at.work, 0) + 1
        self.step.rescues += 1
        free_caches()
        if at.rows > 1:
            whole = at.rows * at.seq if at.unpadded is None else at.unpadded
            self._limits[at.work] = max(at.seq, whole // 2)
        elif at.rows and at.work is Work.TRAIN and self._may_checkpoint and not at.is_checkpointed:
            self._must_checkpoint = True
        elif self._retries < MAX_RETRIES:
            self._retries += 1
            time.sleep(RETRY_PAUSE_S)
        else:
            self.forgive()
            least = f"one row of {at.seq} tokens, the least that is done at once," if at.rows else "it"
            raise OutOfRoomError(
                f"{at.work}: {least} must fit into memory, but {MAX_RETRIES + 1} times it did not "
                f"({failure}){self._readings()}"
            )

    def _readings(self) -> str:
        return f"; {self.guard.describe()}" if self.guard is not None else ""
