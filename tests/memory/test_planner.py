from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.errors import OutOfRoomError
from sweeper.memory import planner
from sweeper.memory.planner import (
    ATTENTION_SHARE,
    FREE_EVERY_S,
    MAX_RETRIES,
    RECOVERY_STEPS,
    RETRY_PAUSE_S,
    Load,
    Part,
    Planner,
    Profile,
    StepMemory,
    Work,
)
from sweeper.units import GIB

LENGTHS = [100, 60, 20, 10, 10]  # the longest first
PROFILE = ((8, 1),)
CHECKPOINTED_SHARE = 0.25


@dataclass
class Room:
    """A guard whose readings are set."""

    room: int = 0
    own: int = 0
    peak: int = 0
    budget: int = 0
    is_exact: bool = True
    resets: int = 0

    @property
    def backend(self) -> Any:
        return self

    def reset_peak(self) -> None:
        self.resets += 1

    def room_bytes(self) -> int:
        return self.room

    def own_bytes(self) -> int:
        return self.own

    def peak_bytes(self) -> int:
        return self.peak

    def budget_bytes(self) -> int:
        return self.budget

    def describe(self) -> str:
        return f"room for {self.room} B"


@dataclass
class ByteToken:
    """A cost of a byte a token, of a quarter with checkpointing, and one expectation that is half of that."""

    observed: list[tuple[int, int]] = field(default_factory=list)

    def transient_bytes(self, load: Load, profile: Profile) -> int:
        assert profile == PROFILE
        return int(load.tokens * (CHECKPOINTED_SHARE if load.is_checkpointed else 1)) + load.supervised

    def expected_bytes(self, load: Load, profile: Profile) -> int:
        return self.transient_bytes(load, profile) // 2

    def optimizer_bytes(self, profile: Profile) -> int:
        assert profile == PROFILE
        return 70

    def observe(self, expected_bytes: int, measured_bytes: int) -> None:
        self.observed.append((expected_bytes, measured_bytes))


def watching(room: Room, **named: Any) -> Planner:
    guard: Any = room
    return Planner(guard, ByteToken(), **named)


def part(made: Planner, work: Work = Work.TRAIN, lengths: list[int] = LENGTHS, **named: Any) -> Part:
    return made.part(work, lengths, PROFILE, named.pop("most_tokens", 4096), **named)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it has slept; and caches are not freed."""
    slept: list[float] = []
    monkeypatch.setattr(planner, "free_caches", lambda: None)
    monkeypatch.setattr(planner, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: 0.0))
    return slept


def test_without_padding_rows_take_what_they_have() -> None:
    padded = Planner().part(Work.TRAIN, LENGTHS, PROFILE, 200)
    assert padded.rows == 2
    unpadded = Planner().part(Work.TRAIN, LENGTHS, PROFILE, 200, is_padded=False)
    assert unpadded.rows == 5
    assert Planner().part(Work.TRAIN, LENGTHS, PROFILE, 180, is_padded=False).rows == 3
    assert Planner().part(Work.TRAIN, LENGTHS, PROFILE, 50, is_padded=False).rows == 1  # one at least


def test_a_load_is_what_goes_through_a_layer() -> None:
    assert Load(Work.TRAIN, rows=4, seq=50).tokens == 200
    assert Load(Work.TRAIN, rows=4, seq=50, unpadded=200).tokens == 200
    # Attention lays rows side by side that are at most twice as long as one another.
    assert Load(Work.TRAIN, rows=4, seq=50, unpadded=160).tokens == 160 + int(ATTENTION_SHARE * 40)
    assert Load(Work.TRAIN, rows=4, seq=500, unpadded=600).tokens == 600 + int(ATTENTION_SHARE * 600)


@pytest.mark.parametrize("is_padded", [True, False])
def test_what_ran_out_is_repeated_smaller(monkeypatch: pytest.MonkeyPatch, is_padded: bool) -> None:
    monkeypatch.setattr(planner, "free_caches", lambda: None)
    made = Planner()
    rows = [made.part(Work.TRAIN, LENGTHS, PROFILE, 4096, is_padded=is_padded).rows]
    while rows[-1] > 1:
        made.rescue("full")
        rows.append(made.part(Work.TRAIN, LENGTHS, PROFILE, 4096, is_padded=is_padded).rows)
    assert rows == ([5, 2, 1] if is_padded else [5, 1])


@pytest.mark.parametrize(
    ("room", "rows"), [(499, 4), (500, 5), (300, 3), (299, 2), (200, 2), (199, 1), (100, 1), (99, 1)]
)
def test_as_many_rows_go_together_as_there_is_room_for(room: int, rows: int) -> None:
    made = watching(Room(room))
    assert part(made) == Part(rows, is_checkpointed=False)


@pytest.mark.parametrize(("rows", "unpadded"), [(1, 100), (2, 160), (3, 180), (4, 190), (5, 200)])
def test_without_padding_there_is_room_for_what_rows_have(rows: int, unpadded: int) -> None:
    needed = Load(Work.TRAIN, rows, 100, unpadded=unpadded).tokens
    assert part(watching(Room(needed)), is_padded=False).rows == rows
    assert part(watching(Room(needed - 1)), is_padded=False).rows == max(1, rows - 1)


def test_positions_with_a_loss_are_those_of_the_rows() -> None:
    made = watching(Room(320))
    assert part(made, supervised=[7, 7, 6, 5, 5]).rows == 3
    assert part(made, supervised=[7, 7, 7, 5, 5]).rows == 2


def test_checkpointing_begins_where_not_one_row_fits() -> None:
    assert part(watching(Room(99), gradient_checkpointing="auto"), can_checkpoint=True) == Part(3, True)
    assert part(watching(Room(100), gradient_checkpointing="auto"), can_checkpoint=True) == Part(1, False)
    assert part(watching(Room(99), gradient_checkpointing="auto"), can_checkpoint=False) == Part(1, False)
    assert part(watching(Room(99), gradient_checkpointing=False), can_checkpoint=True) == Part(1, False)
    assert part(watching(Room(99), gradient_checkpointing="auto"), Work.SCORE, can_checkpoint=True) == Part(1, False)
    assert part(watching(Room(500), gradient_checkpointing=True), can_checkpoint=True) == Part(5, True)
    assert part(watching(Room(500), gradient_checkpointing=True), Work.SCORE, can_checkpoint=True) == Part(5, False)


def test_a_step_is_what_its_largest_part_is_expected_to_take() -> None:
    room = Room(room=300, own=1000, peak=1180, budget=2000)
    made = watching(room)
    made.begin()
    assert room.resets == 1
    part(made)
    part(made, lengths=[60])
    part(made, Work.SCORE)
    made.optimize(PROFILE)
    assert made.step == StepMemory(chunks=2, own_bytes=1000, expected_bytes=150, predicted_bytes=1150)
    made.end()
    assert made.step == StepMemory(2, 0, 1000, 150, 1150, peak_bytes=1180, budget_bytes=2000)
    assert made.highest_bytes == 1180
    assert made.ratios == [1180 / 1150]
    assert made.cost.observed == [(150, 180)]  # type: ignore[union-attr]
    room.peak = 1100
    made.begin()
    assert made.step == StepMemory(own_bytes=1000)
    made.optimize(PROFILE)
    made.end()
    assert made.step.expected_bytes == 70
    assert made.highest_bytes == 1180


def test_the_metrics_of_a_step() -> None:
    step = StepMemory(chunks=3, peak_bytes=2 * GIB, predicted_bytes=3 * GIB, budget_bytes=7 * GIB)
    assert step.metrics() == {"vram/peak_gib": 2, "vram/predicted_gib": 3, "vram/headroom_gib": 5, "vram/chunks": 3}


@pytest.mark.parametrize("is_rescued", [False, True])
@pytest.mark.parametrize("is_exact", [False, True])
def test_only_what_is_read_exactly_and_went_well_is_learned_from(
    pauses: list[float], is_exact: bool, is_rescued: bool
) -> None:
    made = watching(Room(500, is_exact=is_exact))
    made.begin()
    part(made)
    if is_rescued:
        made.rescue("full")
        assert made.step.rescues == 1
    made.end()
    assert bool(made.ratios) is bool(made.cost.observed) is (is_exact and not is_rescued)  # type: ignore[union-attr]


def test_what_ran_out_is_counted_by_what_was_at_work(pauses: list[float]) -> None:
    made = watching(Room(500))
    made.begin()
    part(made)
    made.rescue("full")
    made.rescue("full")
    part(made, Work.SCORE)
    made.rescue("full")
    assert made.rescues == {"train": 2, "score": 1}
    assert made.step.rescues == 3
    assert not pauses  # there was something to make smaller


def test_one_row_is_checkpointed_and_then_repeated_and_then_refused(pauses: list[float]) -> None:
    made = watching(Room(500), gradient_checkpointing="auto")
    assert part(made, lengths=[100], can_checkpoint=True) == Part(1, False)
    made.rescue("full")
    assert not pauses
    for tries in range(1, MAX_RETRIES + 1):
        assert part(made, lengths=[100], can_checkpoint=True) == Part(1, True)
        made.rescue("full")
        assert pauses == [RETRY_PAUSE_S] * tries
    part(made, lengths=[100], can_checkpoint=True)
    with pytest.raises(
        OutOfRoomError,
        match=r"^train: one row of 100 tokens, the least that is done at once, must fit into memory, but 4 times it "
        r"did not \(full\); room for 500 B$",
    ):
        made.rescue("full")
    made.rescue("full")  # what follows has all its retries again
    assert len(pauses) == MAX_RETRIES + 1


@pytest.mark.parametrize(
    ("work", "gradient_checkpointing", "can_checkpoint"),
    [(Work.TRAIN, "auto", False), (Work.TRAIN, False, True), (Work.SCORE, "auto", True)],
)
def test_what_cannot_be_checkpointed_is_repeated(
    pauses: list[float], work: Work, gradient_checkpointing: Any, can_checkpoint: bool
) -> None:
    made = watching(Room(500), gradient_checkpointing=gradient_checkpointing)
    part(made, work, lengths=[100], can_checkpoint=can_checkpoint)
    made.rescue("full")
    assert len(pauses) == 1
    assert not part(made, work, lengths=[100], can_checkpoint=can_checkpoint).is_checkpointed


def test_the_optimizer_is_repeated_and_then_refused(pauses: list[float]) -> None:
    made = Planner()
    made.optimize(PROFILE)
    for _ in range(MAX_RETRIES):
        made.rescue("full")
    with pytest.raises(OutOfRoomError, match=r"^optimizer: it must fit into memory, but 4 times it did not \(full\)$"):
        made.rescue("full")
    made.rescue("full")
    made.end()  # a step that was done forgives
    for _ in range(MAX_RETRIES):
        made.rescue("full")
    assert made.rescues == {"optimizer": 2 * MAX_RETRIES + 2}


def test_what_was_made_smaller_grows_again(pauses: list[float]) -> None:
    made = Planner(gradient_checkpointing="auto")
    part(made, can_checkpoint=True)
    made.rescue("full")  # 250 tokens
    for _ in range(RECOVERY_STEPS - 1):
        made.end()
    part(made, Work.SCORE, lengths=[100], can_checkpoint=True)
    made.rescue("full")  # counts anew
    part(made, lengths=[100], can_checkpoint=True)
    made.rescue("full")  # checkpointing
    for _ in range(RECOVERY_STEPS - 1):
        made.end()
    assert part(made, can_checkpoint=True) == Part(2, True)
    made.end()
    assert part(made, can_checkpoint=True) == Part(5, False)


def test_what_was_made_smaller_grows_twofold(pauses: list[float]) -> None:
    made = Planner()
    for expected in (10, 5, 2):
        assert part(made, lengths=[100] * 10).rows == expected
        made.rescue("full")
    for expected in (1, 2, 4, 8, 10):
        assert part(made, lengths=[100] * 10).rows == expected
        for _ in range(RECOVERY_STEPS):
            made.end()


def test_other_work_is_cut_by_what_is_foretold_alone(pauses: list[float]) -> None:
    made = Planner(gradient_checkpointing="auto")
    part(made, can_checkpoint=True)
    made.rescue("full")
    part(made, lengths=[100], can_checkpoint=True)
    made.rescue("full")
    assert part(made, can_checkpoint=True) == Part(2, True)
    made.forget_failures()
    assert part(made, can_checkpoint=True) == Part(5, False)


def test_what_the_c_library_keeps_is_given_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    room, now, freed = Room(room=10, is_exact=False), [100.0], []

    def free() -> None:
        freed.append(now[0])
        room.room = 20

    monkeypatch.setattr(planner, "free_caches", free)
    monkeypatch.setattr(planner, "time", SimpleNamespace(monotonic=lambda: now[0]))
    made = watching(room)
    assert made.has_room(10)
    assert not freed
    assert made.has_room(20)
    assert freed == [100.0]
    assert not made.has_room(21)
    now[0] += FREE_EVERY_S
    assert not made.has_room(21)
    assert freed == [100.0]  # it takes as long as a small chunk
    now[0] += 0.1
    assert not made.has_room(21)
    assert freed == [100.0, now[0]]
    room.is_exact, now[0] = True, 1000.0
    assert not made.has_room(21)
    assert len(freed) == 2
    assert Planner().has_room(10**18)
