"""What a trial gives when it is trained alone by others' code: PEFT's layers, torch's AdamW, transformers' schedules.

Ours is only the order of the data, and the dropout mask, which no library could know.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import get_scheduler

from sweeper.data.example import Example
from sweeper.engine.batches import batch_rows, replayed_rows
from sweeper.engine.bucket import AdapterState
from sweeper.engine.dropout import Dropout
from sweeper.engine.pack import FIRST_PASSAGE, Pack
from sweeper.engine.slot import Slot
from sweeper.models.targets import linear_names, resolve
from sweeper.trial import Rhythm, TrialParams
from tests.conftest import trial_params

SEED = 5
STEPS = 20
# Nothing is shared: rank, alpha, rate, decay, betas, clipping, batch, schedule, warm-up, targets.
TRIALS = [
    trial_params(rank=4, alpha=8.0, learning_rate=1e-2, batch_size=2, target_modules="attention"),
    trial_params(rank=8, alpha=32.0, learning_rate=5e-3, weight_decay=0.1, batch_size=4, schedule="linear"),
    trial_params(rank=32, alpha=16.0, rslora=True, learning_rate=2e-3, batch_size=3, lora_plus_ratio=4.0),
    trial_params(rank=20, learning_rate=2e-2, batch_size=4, target_modules="mlp", max_grad_norm=0.1),
    trial_params(rank=64, alpha=64.0, learning_rate=1e-3, batch_size=1, schedule="constant", beta2=0.95),
    trial_params(rank=16, alpha=4.0, learning_rate=3e-2, batch_size=5, warmup_ratio=0.5, beta1=0.5),
    trial_params(rank=4, alpha=1.0, learning_rate=5e-2, batch_size=2, schedule="constant_with_warmup"),
    trial_params(rank=48, alpha=96.0, learning_rate=4e-4, batch_size=3, weight_decay=0.5, warmup_ratio=0.0),
]


def rhythm_of(params: TrialParams, steps: int = STEPS) -> Rhythm:
    """At least `steps` steps in two intervals; trials of like batch size differ in length too."""
    steps += 2 * (params.rank % 3)
    return Rhythm(interval_examples=params.batch_size * steps // 2, evaluations=2, batch_size=params.batch_size)


def new_pack(model: Any, examples: Sequence[Example], chunk_tokens: int = 4096, **options: Any) -> Pack:
    """A pack over all linears of `model`; float64 unless said otherwise."""
    options = {"dtype": torch.float64, **options}
    return Pack(model, linear_names(model), examples, pad=0, chunk_tokens=chunk_tokens, **options)


def admit(pack: Pack, number: int, params: TrialParams, steps: int = STEPS, seed: int = SEED) -> Slot:
    slot, state = pack.new_slot(number, params, rhythm_of(params, steps), seed)
    pack.admit(slot, state)
    return slot


@dataclass
class Alone:
    """A trial that PEFT trained."""

    losses: list[float]
    weights: dict[str, torch.Tensor]
    first_gradients: dict[str, torch.Tensor]  # before clipping


class HashedDropout(torch.nn.Module):
    """Our mask in the place of PEFT's dropout."""

    def __init__(self, name: str, rate: float) -> None:
        super().__init__()
        self.name, self.rate = name, rate
        self.positions: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = len(self.positions)
        by_row = x.reshape(rows, -1, x.shape[-1])  # OPT hands (rows × seq, in) to its feed-forward layers
        dropout = Dropout.of([SEED] * rows, self.positions, [self.rate] * rows, by_row.shape[1], x.device)
        return dropout.apply(by_row, zlib.crc32(self.name.encode())).view_as(x)


def with_peft(
    model: Any, params: TrialParams, initial: AdapterState, autocast_adapter_dtype: bool = False
) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    """`model` with one PEFT adapter that begins at `initial`, and the adapter's parameters by our names."""
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        use_rslora=params.rslora,
        target_modules=resolve(params.target_modules, linear_names(model)),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config, autocast_adapter_dtype=autocast_adapter_dtype)
    prefix = "base_model.model."
    weights = {
        name.removeprefix(prefix).replace(".default.weight", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert set(weights) == set(initial.tensors["weight"])
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(initial.tensors["weight"][name])
    if params.dropout:
        for name, module in model.named_modules():
            if hasattr(module, "lora_dropout"):
                module.lora_dropout["default"] = HashedDropout(name.removeprefix(prefix), params.dropout)
    return model, weights


def train_alone(
    base: Any,
    params: TrialParams,
    initial: AdapterState,
    examples: Sequence[Example],
    steps: int = STEPS,
    replay: Sequence[Example] = (),
) -> Alone:
    """Trains one adapter on a copy of `base`, without any code of ours but the order of the data and the mask."""
    model, weights = with_peft(deepcopy(base), params, initial)
    groups = [
        {"params": [p for n, p in weights.items() if n.endswith("A")], "lr": params.learning_rate},
        {
            "params": [p for n, p in weights.items() if n.endswith("B")],
            "lr": params.learning_rate * params.lora_plus_ratio,
        },
    ]
    optimizer = torch.optim.AdamW(groups, betas=(params.beta1, params.beta2), weight_decay=params.weight_decay)
    rhythm = rhythm_of(params)
    warmup = math.ceil(params.warmup_ratio * rhythm.total_steps)
    scheduler = get_scheduler(params.schedule, optimizer, warmup, rhythm.total_steps)
    device = next(model.parameters()).device
    losses: list[float] = []
    first_gradients: dict[str, torch.Tensor] = {}
    model.train()
    for step in range(steps):
        rows = [examples[row] for row in batch_rows(rhythm, step, len(examples), SEED)]
        positions = list(range(rhythm.examples_at(step), rhythm.examples_at(step + 1)))
        if params.replay:
            passages = replayed_rows(rhythm, step, len(replay), SEED, params.replay)
            rows += [replay[row] for _, row in passages]
            positions += [FIRST_PASSAGE + position for position, _ in passages]
        for module in model.modules():
            if isinstance(module, HashedDropout):
                module.positions = positions
        longest = max(len(row.prompt) + len(row.answer) for row in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full((len(rows), longest), -100)
        for index, row in enumerate(rows):
            whole = row.prompt + row.answer
            tokens[index, : len(whole)] = torch.tensor(whole)
            labels[index, len(row.prompt) : len(whole)] = torch.tensor(row.answer)
        mask = (torch.arange(longest) < torch.tensor([[len(r.prompt) + len(r.answer)] for r in rows])).long()
        logits = model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits[:, :-1]
        logits = logits if logits.dtype is torch.float64 else logits.float()
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten().to(device), ignore_index=-100)
        loss.backward()
        if step == 0:
            first_gradients = {name: parameter.grad.clone() for name, parameter in weights.items()}
        torch.nn.utils.clip_grad_norm_(list(weights.values()), params.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return Alone(losses, {name: parameter.detach().clone() for name, parameter in weights.items()}, first_gradients)


def largest_difference(ours: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert set(ours) == set(other)
    return max(float((ours[name].cpu() - other[name].cpu()).abs().max()) for name in ours)
