"""Trials come and go; their adapters are laid out once for all of it, and nothing is lost where memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sweeper.engine.bucket import AdapterState, Bucket
from sweeper.engine.pack import Pack
from sweeper.engine.stack import AdapterStack
from tests.conftest import random_examples, small_model, trial_params
from tests.engine.oracle import admit, new_pack

RANKS = (32, 4, 8, 24)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of slots of the buckets that are laid out."""
    sizes: list[int] = []
    lay_out = AdapterStack._bucket

    def counted(stack: AdapterStack, states: list[AdapterState]) -> Bucket:
        sizes.append(len(states))
        return lay_out(stack, states)

    monkeypatch.setattr(AdapterStack, "_bucket", counted)
    return sizes


def filled() -> Pack:
    pack = new_pack(small_model(), random_examples(20))
    for number, rank in enumerate(RANKS):
        admit(pack, number, trial_params(rank=rank))
    pack.tick()
    return pack


def weights_of(pack: Pack) -> dict[int, dict[str, torch.Tensor]]:
    return {slot.number: pack.state(slot).tensors["weight"] for slot in pack.slots}


def assert_same(one: dict[int, dict[str, torch.Tensor]], other: dict[int, dict[str, torch.Tensor]]) -> None:
    assert set(one) == set(other)
    for number, tensors in one.items():
        assert all(torch.equal(tensor, other[number][name]) for name, tensor in tensors.items())


def change(pack: Pack) -> None:
    """One of each bucket leaves, and two come to one of them."""
    pack.remove(next(slot for slot in pack.slots if slot.params.rank == 32))
    pack.remove(next(slot for slot in pack.slots if slot.params.rank == 4))
    admit(pack, 7, trial_params(rank=16))
    admit(pack, 8, trial_params(rank=12))


def test_a_bucket_is_laid_out_once_for_all_that_came_and_went(made: list[int]) -> None:
    pack = filled()
    assert made == [2, 2]
    change(pack)
    assert (made, pack.stack.slots) == ([2, 2], 4)
    assert pack.stack.profile == ((16, 3), (24, 1))
    assert pack.stack.held == ((8, 2), (32, 2))  # until then those that left are still there
    assert pack.stack.profile_with(64) == ((16, 3), (64, 2))
    pack.settle()
    assert made == [2, 2, 1, 3]  # what shrinks comes first
    assert pack.stack.held == pack.stack.profile
    pack.settle()
    assert len(made) == 4


def test_whoever_comes_and_goes_between_two_steps_is_never_laid_out(made: list[int]) -> None:
    pack = filled()
    before = weights_of(pack)
    guest = admit(pack, 9, trial_params(rank=8))
    assert pack.state(guest).rank == 8
    pack.discard(guest)
    pack.settle()
    assert made == [2, 2]
    assert_same(weights_of(pack), before)


def test_an_emptied_bucket_is_let_go_of_at_once() -> None:
    pack = filled()
    for slot in [slot for slot in pack.slots if slot.params.rank > 16]:
        pack.discard(slot)
    assert pack.stack.held == ((8, 2),)
    assert all(len(module.weights) == 1 for module in pack.stack.modules.values())


def test_a_bucket_whose_slots_have_all_changed_is_gone_before_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = filled()
    lay_out, held = AdapterStack._bucket, []

    def watched(stack: AdapterStack, states: list[AdapterState]) -> Bucket:
        held.append(stack.held)
        return lay_out(stack, states)

    monkeypatch.setattr(AdapterStack, "_bucket", watched)
    for slot in [slot for slot in pack.slots if slot.params.rank > 16]:
        admit(pack, slot.number + 10, trial_params(rank=32))
        pack.discard(slot)
    pack.settle()
    assert held == [((8, 2),)]


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    """Memory runs out at some of the layouts, by their number."""
    lay_out, calls = AdapterStack._bucket, iter(range(1000))

    def short(stack: AdapterStack, states: list[AdapterState]) -> Bucket:
        if fails(next(calls)):
            raise torch.OutOfMemoryError("no room")
        return lay_out(stack, states)

    monkeypatch.setattr(AdapterStack, "_bucket", short)


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("count", [1, 2])
def test_where_memory_runs_out_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, first: int, count: int) -> None:
    expected = filled()
    change(expected)
    expected.settle()
    pack = filled()
    change(pack)
    failing(monkeypatch, lambda call: first <= call < first + count)
    before = weights_of(pack)
    for _ in range(count + 1):
        try:
            pack.settle()
        except torch.OutOfMemoryError:
            assert_same(weights_of(pack), before)
    assert pack.stack.held == pack.stack.profile
    assert_same(weights_of(pack), before)
    for ours, theirs in zip(pack.tick(), expected.tick(), strict=True):
        assert ours == theirs
    assert_same(weights_of(pack), weights_of(expected))


def test_what_fits_nowhere_waits_in_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = filled()
    change(pack)
    before = weights_of(pack)
    with monkeypatch.context() as patch:
        failing(patch, lambda call: True)
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            pack.settle()
    assert len(pack.stack.held) < len(pack.stack.profile)
    assert_same(weights_of(pack), before)
    pack.settle()
    assert pack.stack.held == pack.stack.profile
    assert_same(weights_of(pack), before)
