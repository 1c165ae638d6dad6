"""The formula's sizes, by hand: a coefficient of one picks a size, so that what it is can be read off."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sweeper.memory.formula import (
    CHECKPOINTED,
    GENERIC,
    GENERIC_BOUND,
    HEAD_POSITIONS,
    KEPT,
    SCORE,
    SCRATCH_BUFFER_BYTES,
    Dimensions,
    Formula,
    Targeted,
    features,
    mode_of,
    padded,
    target_key,
)
from sweeper.memory.planner import Load, Work

ATTENTION = Targeted(linears=2.0, widths=90, half=50)
ALL = Targeted(linears=4.0, widths=210, half=110)
BASE = Dimensions(
    hidden=10,
    layers=3,
    vocabulary=100,
    compute_bytes=2,
    weights_4bit_bytes=1000,
    weights_other_bytes=300,
    io=40.0,
    wide=25,
    largest=250,
    targets={"attention": ATTENTION, "all-linear": ALL},
)
PROFILE = ((8, 2), (16, 1))  # 32 ranks in all, of at most 16
TRAIN = Load(Work.TRAIN, rows=2, seq=8, supervised=5)  # 16 tokens
TRAIN_CHECKPOINTED = replace(TRAIN, is_checkpointed=True)
SCORED = Load(Work.SCORE, rows=2, seq=8)
SIZES = {
    # All layers' inputs, linears, adapted, kept inputs, ranks, copies, largest, head, dropout, attention, wide.
    KEPT: (TRAIN, (0, 3840, 2880, 960, 3072, 5760, 500, 2000, 0, 256, 800)),
    CHECKPOINTED: (TRAIN_CHECKPOINTED, (960, 1280, 960, 320, 1024, 1920, 500, 2000, 0, 256, 800)),
    SCORE: (SCORED, (1600, 320, 800, 500, 800, 256, 1024, 3200, 640)),
}


def picking(mode: str, *places: int, one: float = 1.0) -> Formula:
    """Of a mode, a phase for each place, with a coefficient for the size at that place alone."""
    count = len(GENERIC[mode][0])
    return Formula(BASE, {mode: tuple(tuple(one * (at == place) for at in range(count)) for place in places)})


@pytest.mark.parametrize("mode", SIZES)
def test_the_sizes_of_a_load(mode: str) -> None:
    load, sizes = SIZES[mode]
    assert mode_of(load) == mode
    assert features(BASE, load, PROFILE, ATTENTION) == sizes
    assert len(sizes) == len(GENERIC[mode][0])


def test_dropout_keeps_what_adapters_read() -> None:
    dropping = replace(BASE, has_dropout=True)
    assert features(dropping, TRAIN, PROFILE, ATTENTION)[8] == 2880
    assert features(dropping, TRAIN_CHECKPOINTED, PROFILE, ATTENTION)[8] == 960


def test_the_head_is_at_most_so_many_positions() -> None:
    for supervised, positions in (
        (HEAD_POSITIONS - 1,) * 2,
        (HEAD_POSITIONS,) * 2,
        (HEAD_POSITIONS + 1, HEAD_POSITIONS),
    ):
        assert features(BASE, replace(TRAIN, supervised=supervised), PROFILE, ALL)[7] == 400 * positions


def test_a_base_without_adapters_has_no_ranks() -> None:
    sizes = features(BASE, SCORED, (), ATTENTION)
    assert sizes[6:8] == (0, 0)
    assert sizes[:6] == SIZES[SCORE][1][:6]


def test_the_highest_phase_counts_and_the_largest_choice_of_targets() -> None:
    one = ((16, 2),)
    assert picking(KEPT, 7).transient_bytes(TRAIN, one, "attention") == 2000
    assert picking(KEPT, 7, 1, 6).transient_bytes(TRAIN, one, "attention") == 3840
    assert picking(KEPT, 2).transient_bytes(TRAIN, one) == 2880 * 210 // 90
    assert picking(KEPT, 2).transient_bytes(TRAIN, one, "attention") == 2880
    assert picking(KEPT, 7, one=1.5).transient_bytes(TRAIN, one) == 3000


def test_several_buckets_put_their_outputs_together() -> None:
    assert picking(KEPT, 7).transient_bytes(TRAIN, PROFILE) == 2000 + 2 * 16 * 25
    assert picking(SCORE, 1).transient_bytes(SCORED, PROFILE) == 320 + 4 * 16 * 25


def test_writing_keeps_keys_and_values() -> None:
    writes = replace(SCORED, work=Work.GENERATE)
    assert picking(SCORE, 1).transient_bytes(writes, ((16, 2),)) == 320 + 2 * 3 * 16 * 10 * 4


@pytest.mark.parametrize(("rank", "expected"), [(1, 8), (8, 8), (9, 16), (64, 64)])
def test_ranks_are_padded(rank: int, expected: int) -> None:
    assert padded(rank) == expected
    assert Formula.generic(BASE).adapter_values(rank, "attention") == expected * 90


def test_the_optimizer_takes_scratch_and_what_is_staged() -> None:
    made = Formula.generic(BASE)
    assert made.optimizer_bytes(PROFILE, "attention", "device") == 2 * 4 * 16 * 50
    assert made.optimizer_bytes(((8, 4), (16, 1)), "attention", "device") == 2 * 4 * 32 * 50  # four of rank 8
    assert made.optimizer_bytes(PROFILE, "attention", "host") == 4 * 4 * 16 * 50
    assert made.optimizer_bytes(PROFILE, "attention", "8bit") == int(6 * 4 * 16 * 50 + 32 * 90 * (2 + 8 / 256))
    wide = Formula.generic(replace(BASE, targets={"attention": replace(ATTENTION, half=SCRATCH_BUFFER_BYTES)}))
    assert wide.optimizer_bytes(PROFILE, "attention", "device") == 2 * SCRATCH_BUFFER_BYTES


def test_a_base_that_was_not_traced_has_the_generic_bound() -> None:
    made = Formula.generic(BASE)
    assert (made.bound, made.is_traced, made.can_checkpoint) == (GENERIC_BOUND, False, True)
    assert made.coefficients == GENERIC
    assert made.base_bytes == 1300
    without = Formula.generic(BASE, can_checkpoint=False)
    assert set(without.coefficients) == {KEPT, SCORE}
    assert not without.can_checkpoint


def test_a_formula_survives_its_file() -> None:
    made = Formula(replace(BASE, has_dropout=True), {KEPT: ((1.0, 2.0), (0.5, 0.0)), SCORE: ((3.0,),)}, 1.05, True)
    assert Formula.from_dict(json.loads(json.dumps(made.as_dict()))) == made


def test_a_choice_of_targets_is_a_key() -> None:
    assert target_key("all-linear") == "all-linear"
    assert target_key(["q_proj", "v_proj"]) == "q_proj v_proj"
