"""The claim that everything rests on: a trial in a pack gets what it would get alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sweeper.engine.lora import ragged_matmul
from sweeper.engine.pack import Pack
from sweeper.memory.planner import Part, Planner, Work
from sweeper.trial import TrialParams
from tests.conftest import random_examples, small_model, trial_params
from tests.engine.oracle import STEPS, TRIALS, admit, largest_difference, new_pack, train_alone


def with_dropout(trials: list[TrialParams]) -> list[TrialParams]:
    """Every second trial with a rate of its own."""
    rates = [0.3, 0.0, 0.1, 0.0, 0.5, 0.05, 0.0, 0.2]
    return [trial.model_copy(update={"dropout": rate}) for trial, rate in zip(trials, rates, strict=False)]


@pytest.mark.parametrize("trials", [TRIALS[:4], TRIALS, with_dropout(TRIALS)], ids=["4", "8", "8-dropout"])
@pytest.mark.parametrize(("chunk_tokens", "gradient_checkpointing"), [(4096, False), (60, False), (4096, True)])
def test_packed_training_equals_peft_alone(
    trials: list[TrialParams], chunk_tokens: int, gradient_checkpointing: bool
) -> None:
    base, examples = small_model(), random_examples(30)
    pack = new_pack(deepcopy(base), examples, chunk_tokens, gradient_checkpointing=gradient_checkpointing)
    slots = [admit(pack, number, params) for number, params in enumerate(trials)]
    initial = [pack.state(slot) for slot in slots]
    history: list[dict[int, float]] = []
    for _ in range(STEPS):
        numbers = [slot.number for slot in pack.slots]
        history.append({number: tick.loss for number, tick in zip(numbers, pack.tick(), strict=True)})

    for slot, params, begin in zip(slots, trials, initial, strict=True):
        alone = train_alone(base, params, begin, examples)
        ours = pack.state(slot).tensors["weight"]
        assert [losses[slot.number] for losses in history] == pytest.approx(alone.losses, abs=1e-12)
        assert largest_difference(ours, alone.weights) <= 1e-12
        assert largest_difference(ours, begin.tensors["weight"]) > 1e-3  # or the comparison would say nothing


def test_buckets_keep_ranks_apart_and_padding_stays_zero() -> None:
    pack = new_pack(small_model(), random_examples(20))
    ranks = (32, 4, 8, 12, 128, 24, 17)
    for number, rank in enumerate(ranks):
        admit(pack, number, trial_params(rank=rank, weight_decay=0.5))
    # Within a bucket as they came; the padded rank is the largest in it, in multiples of eight.
    assert [slot.params.rank for slot in pack.slots] == [4, 8, 12, 32, 24, 17, 128]
    assert [(bucket.slots, bucket.rank) for bucket in pack.stack.buckets] == [(3, 16), (3, 32), (1, 128)]
    for _ in range(3):
        pack.tick()
    for weights in pack.stack.buckets[0].weights.values():
        assert float(weights.a.detach()[0, 4:].abs().max()) == 0.0
        assert float(weights.b.detach()[0, :, 4:].abs().max()) == 0.0
        assert float(weights.b.detach()[0, :, :4].abs().max()) > 0.0
    pack.remove(pack.slots[-1])
    pack.remove(next(slot for slot in pack.slots if slot.params.rank == 32))
    assert [(bucket.slots, bucket.rank) for bucket in pack.stack.buckets] == [(3, 16), (2, 24)]
    assert [pack.state(slot).rank for slot in pack.slots] == [4, 8, 12, 24, 17]


def test_modules_that_no_slot_targets_take_no_memory() -> None:
    pack = new_pack(small_model(), random_examples(20))
    admit(pack, 0, trial_params(target_modules="attention"))
    attention = pack.stack.buckets[0].grad.numel()
    admit(pack, 1, trial_params(rank=64))
    everything = pack.stack.buckets[1].grad.numel()
    assert pack.stack.buckets[0].grad.numel() == attention
    assert everything > 8 * attention
    assert [weights is None for weights in pack.stack.modules["model.layers.0.mlp.up_proj"].weights] == [True, False]


def gradients(pack: Pack) -> torch.Tensor:
    """All slots' gradients of the next tick. After one step the first moment is (1 - beta1) × the gradient."""
    pack.tick()
    moments = [
        tensor.flatten() / (1 - slot.params.beta1)
        for slot in sorted(pack.slots, key=lambda slot: slot.number)
        for tensor in pack.state(slot).tensors["exp_avg"].values()
    ]
    return torch.cat(moments).double()


@dataclass
class InParts(Planner):
    """Cuts a tick into so many parts."""

    count: int = 1

    def part(self, work: Work, lengths: Sequence[int], *args: Any, **options: Any) -> Part:
        part = super().part(work, lengths, *args, **options)
        left = self.count - self.step.chunks + 1
        return replace(part, rows=-(-len(lengths) // left))


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_tick_in_one_two_three_or_seven_chunks_has_one_gradient(dropout: bool, gradient_checkpointing: bool) -> None:
    trials = with_dropout(TRIALS) if dropout else TRIALS
    results = []
    for count in (1, 2, 3, 7):
        pack = new_pack(
            small_model(torch.float32),
            random_examples(30),
            dtype=torch.float32,
            planner=InParts(gradient_checkpointing=gradient_checkpointing, count=count),
        )
        for number, params in enumerate(trials):
            admit(pack, number, params)
        results.append(gradients(pack))
        assert pack.planner.step.chunks == count
    for result in results[1:]:
        assert float((result - results[0]).norm() / results[0].norm()) < 1e-6


def test_a_slot_is_resumed_elsewhere_without_a_difference() -> None:
    examples = random_examples(40)
    trials = with_dropout(TRIALS)
    alone = new_pack(small_model(), examples)
    admit(alone, 2, trials[2])
    expected = [alone.tick()[0].loss for _ in range(STEPS)]

    pack = new_pack(small_model(), examples)
    first, second = admit(pack, 0, trials[0]), admit(pack, 2, trials[2])
    got = [pack.tick()[pack.slots.index(second)].loss for _ in range(8)]
    evicted = pack.remove(second)
    admit(pack, 3, trials[3])
    for _ in range(5):
        pack.tick()
    pack.remove(first)
    pack.admit(second, evicted)
    got += [pack.tick()[pack.slots.index(second)].loss for _ in range(STEPS - 8)]
    assert got == pytest.approx(expected, abs=1e-12)
    final, reference = pack.state(second), alone.state(alone.slots[0])
    for kind, tensors in reference.tensors.items():
        assert largest_difference(final.tensors[kind], tensors) <= 1e-12


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("what", ["scale", "weight"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_diverged_slot_is_reported_and_its_neighbours_do_not_notice(
    value: float, what: str, dtype: torch.dtype
) -> None:
    examples = random_examples(30)
    packs = [new_pack(small_model(dtype), examples, dtype=dtype) for _ in range(2)]
    for pack in packs:
        for number, params in enumerate(TRIALS):
            admit(pack, number, params)
        pack.tick()
    broken, whole = packs
    bucket = broken.stack.buckets[0]
    with torch.no_grad():
        if what == "scale":
            bucket.scale[1] = value
        else:
            bucket.weight[1, 7] = value
    victim = broken.slots[1]
    before = broken.state(victim)
    for _ in range(2):
        ticks = [pack.tick() for pack in packs]
        assert [tick.is_finite for tick in ticks[0]] == [slot is not victim for slot in broken.slots]
        assert all(tick.is_finite for tick in ticks[1])
    for index, slot in enumerate(broken.slots):
        reference = before if slot is victim else whole.state(whole.slots[index])
        for kind, tensors in reference.tensors.items():
            ours = broken.state(slot).tensors[kind]
            assert all(torch.equal(ours[name].nan_to_num(), tensors[name].nan_to_num()) for name in tensors)


def test_float32_ragged_packs_agree_with_float64() -> None:
    """float64 pads ragged packs, float32 uses grouped_mm: two paths, one result."""
    examples = random_examples(30)
    results = []
    for dtype in (torch.float64, torch.float32):
        pack = new_pack(small_model(dtype), examples, dtype=dtype)
        for number, params in enumerate(TRIALS):
            admit(pack, number, params)
        results.append(gradients(pack))
    assert float((results[0] - results[1]).norm() / results[0].norm()) < 1e-5


@pytest.mark.parametrize("out", [16, 5, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_ragged_matmul_is_one_product_for_each_run(out: int, dtype: torch.dtype, device: torch.device) -> None:
    """Widths that grouped_mm takes and widths that it refuses, forward and backward."""
    counts = [3, 1, 6]
    x = torch.randn(10, 8, dtype=dtype, device=device, requires_grad=True)
    weights = torch.randn(3, out, 8, dtype=dtype, device=device, requires_grad=True)
    expected = torch.cat([part @ weight.T for part, weight in zip(x.split(counts), weights, strict=True)])
    got = ragged_matmul(x, weights, torch.tensor([3, 4, 10], dtype=torch.int32, device=device))
    tolerance = 0.05 if dtype is torch.bfloat16 else 1e-4
    assert torch.allclose(got, expected, atol=tolerance)
    upstream = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(got, (x, weights), upstream),
        torch.autograd.grad(expected, (x, weights), upstream),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=4 * tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_packed_training_on_cuda_equals_peft_alone(gradient_checkpointing: bool) -> None:
    """As above, but kernels sum in another order there, and AdamW enlarges the rounding of small gradients."""
    base, examples = small_model().cuda(), random_examples(30)
    trials = with_dropout(TRIALS)
    pack = new_pack(deepcopy(base), examples, gradient_checkpointing=gradient_checkpointing)
    slots = [admit(pack, number, params) for number, params in enumerate(trials)]
    initial = [pack.state(slot) for slot in slots]
    for _ in range(STEPS):
        pack.tick()
    for slot, params, begin in zip(slots, trials, initial, strict=True):
        alone = train_alone(base, params, begin, examples)
        assert largest_difference(pack.state(slot).tensors["weight"], alone.weights) <= 1e-10


def test_the_base_is_left_as_it_was() -> None:
    model, reference = small_model(), small_model()
    pack = new_pack(model, random_examples(10))
    admit(pack, 0, TRIALS[0])
    pack.tick()
    pack.stack.detach()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), reference.parameters(), strict=True))
    assert [name for name, _ in model.named_modules()] == [name for name, _ in reference.named_modules()]
