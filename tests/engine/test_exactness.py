"""The claim that everything rests on: a trial in a pack gets what it would get alone.

The oracle is not ours: PEFT's own LoRA layers, torch's AdamW and clipping, transformers' schedules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import get_scheduler

from sweeper.data.prompt import Example
from sweeper.engine.batches import batch_rows
from sweeper.engine.lora import AdapterState, ragged_matmul
from sweeper.engine.pack import Pack, Slot
from sweeper.models.targets import linear_names, resolve
from sweeper.trial import Rhythm, TrialParams
from tests.conftest import random_examples, small_model, trial_params

SEED = 5
STEPS = 20
TRIALS = [
    trial_params(rank=4, alpha=8.0, learning_rate=1e-2, batch_size=2, target_modules="attention"),
    trial_params(rank=8, alpha=32.0, learning_rate=5e-3, weight_decay=0.1, batch_size=4, schedule="linear"),
    trial_params(rank=32, alpha=16.0, rslora=True, learning_rate=2e-3, batch_size=3, lora_plus_ratio=4.0),
    trial_params(rank=20, learning_rate=2e-2, batch_size=4, target_modules=("q_proj", "down_proj"), max_grad_norm=0.1),
]


def rhythm_of(params: TrialParams, steps: int = STEPS) -> Rhythm:
    return Rhythm(interval_examples=params.batch_size * steps // 2, evaluations=2, batch_size=params.batch_size)


def new_pack(model: Any, examples: Sequence[Example], chunk_tokens: int = 4096, dtype: Any = torch.float64) -> Pack:
    return Pack(model, linear_names(model), examples, pad=0, seed=SEED, chunk_tokens=chunk_tokens, dtype=dtype)


def admit(pack: Pack, number: int, params: TrialParams, steps: int = STEPS) -> Slot:
    slot, state = pack.new_slot(number, params, rhythm_of(params, steps))
    pack.admit(slot, state)
    return slot


def train_with_peft(
    base: Any, params: TrialParams, initial: AdapterState, examples: Sequence[Example], steps: int
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Trains one adapter alone, without any code of ours but the order of the data."""
    model: Any = deepcopy(base)
    names = linear_names(model)
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        use_rslora=params.rslora,
        target_modules=resolve(params.target_modules, names),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    weights = {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert set(weights) == set(initial.tensors["weight"])
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(initial.tensors["weight"][name])
    groups = [
        {"params": [p for n, p in weights.items() if n.endswith("A")], "lr": params.learning_rate},
        {
            "params": [p for n, p in weights.items() if n.endswith("B")],
            "lr": params.learning_rate * params.lora_plus_ratio,
        },
    ]
    optimizer = torch.optim.AdamW(groups, betas=(params.beta1, params.beta2), weight_decay=params.weight_decay)
    rhythm = rhythm_of(params, STEPS)
    warmup = math.ceil(params.warmup_ratio * rhythm.total_steps)
    scheduler = get_scheduler(params.schedule, optimizer, warmup, rhythm.total_steps)
    losses = []
    model.train()
    for step in range(steps):
        rows = [examples[row] for row in batch_rows(rhythm, step, len(examples), SEED)]
        longest = max(len(row.prompt) + len(row.answer) for row in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full((len(rows), longest), -100)
        for index, row in enumerate(rows):
            whole = row.prompt + row.answer
            tokens[index, : len(whole)] = torch.tensor(whole)
            labels[index, len(row.prompt) : len(whole)] = torch.tensor(row.answer)
        mask = (torch.arange(longest) < torch.tensor([[len(r.prompt) + len(r.answer)] for r in rows])).long()
        logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), params.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name: parameter.detach().clone() for name, parameter in weights.items()}


@pytest.mark.parametrize("chunk_tokens", [4096, 60])
def test_packed_training_equals_peft_alone(chunk_tokens: int) -> None:
    base, examples = small_model(), random_examples(30)
    pack = new_pack(deepcopy(base), examples, chunk_tokens)
    slots = [admit(pack, number, params) for number, params in enumerate(TRIALS)]
    initial = [pack.state(slot) for slot in slots]
    history = [[tick.loss for tick in pack.tick()] for _ in range(STEPS)]

    for index, (slot, params) in enumerate(zip(slots, TRIALS, strict=True)):
        losses, weights = train_with_peft(base, params, initial[index], examples, STEPS)
        ours = pack.state(slot).tensors["weight"]
        assert [step[index] for step in history] == pytest.approx(losses, abs=1e-12)
        assert max(float((ours[name] - weights[name]).abs().max()) for name in weights) <= 1e-12
        moved = max(float((ours[name] - initial[index].tensors["weight"][name]).abs().max()) for name in ours)
        assert moved > 1e-3  # or the comparison would say nothing


def test_padding_of_ranks_stays_zero() -> None:
    pack = new_pack(small_model(), random_examples(20))
    for number, params in enumerate((trial_params(rank=4, weight_decay=0.5), trial_params(rank=32))):
        admit(pack, number, params)
    for _ in range(5):
        pack.tick()
    for module in pack.stack.modules.values():
        assert module.lora_A.shape[1] == 32
        assert float(module.lora_A.detach()[0, 4:].abs().max()) == 0.0
        assert float(module.lora_B.detach()[0, :, 4:].abs().max()) == 0.0
        assert float(module.lora_B.detach()[0, :, :4].abs().max()) > 0.0


@pytest.mark.parametrize("budget", [10_000, 90, 40, 1])
def test_chunking_does_not_change_the_gradient(budget: int) -> None:
    examples = random_examples(30)
    grads = []
    for chunk_tokens in (10_000, budget):
        pack = new_pack(small_model(torch.float32), examples, chunk_tokens, torch.float32)
        for number, params in enumerate(TRIALS):
            admit(pack, number, params)
        pack.tick()
        # After one step the first moment is (1 - beta1) × the clipped gradient.
        grads.append(pack.stack.flat["exp_avg"].clone())
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < 1e-6


def test_a_slot_is_resumed_elsewhere_without_a_difference() -> None:
    examples = random_examples(40)
    alone = new_pack(small_model(), examples)
    admit(alone, 1, TRIALS[1])
    expected = [alone.tick()[0].loss for _ in range(STEPS)]

    pack = new_pack(small_model(), examples)
    first, second = admit(pack, 0, TRIALS[0]), admit(pack, 1, TRIALS[1])
    got = [pack.tick()[1].loss for _ in range(8)]
    evicted = pack.remove(second)
    admit(pack, 3, TRIALS[3])
    for _ in range(5):
        pack.tick()
    pack.remove(first)
    pack.admit(second, evicted)
    got += [pack.tick()[pack.slots.index(second)].loss for _ in range(STEPS - 8)]
    assert got == pytest.approx(expected, abs=1e-12)
    final, reference = pack.state(second), alone.state(alone.slots[0])
    for kind, tensors in reference.tensors.items():
        for name, tensor in tensors.items():
            assert float((final.tensors[kind][name] - tensor).abs().max()) <= 1e-12


def test_a_diverged_slot_is_reported_and_its_neighbours_do_not_notice() -> None:
    examples = random_examples(30)
    packs = [new_pack(small_model(), examples) for _ in range(2)]
    for pack in packs:
        for number, params in enumerate(TRIALS):
            admit(pack, number, params)
        pack.tick()
    broken = packs[0]
    with torch.no_grad():
        for module in broken.stack.modules.values():
            module.scale[1] = float("inf")
    before = {kind: flat[1].clone() for kind, flat in broken.stack.flat.items()}
    ticks = [pack.tick() for pack in packs]

    assert [tick.is_finite for tick in ticks[0]] == [True, False, True, True]
    assert all(tick.is_finite for tick in ticks[1])
    for kind, flat in broken.stack.flat.items():
        assert torch.equal(flat[1], before[kind])
        for slot in (0, 2, 3):
            assert float((flat[slot] - packs[1].stack.flat[kind][slot]).abs().max()) <= 1e-12


def test_float32_ragged_packs_agree_with_float64() -> None:
    """float64 pads ragged packs, float32 uses grouped_mm: two paths, one result."""
    examples = random_examples(30)
    states = []
    for dtype in (torch.float64, torch.float32):
        pack = new_pack(small_model(dtype), examples, dtype=dtype)
        for number, params in enumerate(TRIALS):
            admit(pack, number, params)
        pack.tick()
        states.append(pack.stack.flat["exp_avg"].double())
    assert float((states[0] - states[1]).norm() / states[0].norm()) < 1e-5


@pytest.mark.parametrize("out", [16, 5, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ragged_matmul_is_one_product_for_each_run(out: int, dtype: torch.dtype) -> None:
    """Widths that grouped_mm takes and widths that it refuses."""
    counts = [3, 1, 6]
    x, weights = torch.randn(10, 8, dtype=dtype), torch.randn(3, out, 8, dtype=dtype)
    expected = torch.cat([part @ weight.T for part, weight in zip(x.split(counts), weights, strict=True)])
    got = ragged_matmul(x, weights, torch.tensor([3, 4, 10], dtype=torch.int32))
    assert torch.allclose(got, expected, atol=1e-5)


def test_the_base_is_left_as_it_was() -> None:
    model, reference = small_model(), small_model()
    pack = new_pack(model, random_examples(10))
    admit(pack, 0, TRIALS[0])
    pack.tick()
    pack.stack.detach()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), reference.parameters(), strict=True))
    assert [name for name, _ in model.named_modules()] == [name for name, _ in reference.named_modules()]
