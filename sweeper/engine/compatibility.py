"""Whether a base can be packed, proven on a few tokens instead of kept as a list of names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sweeper.engine.batches import Item, chunks
from sweeper.engine.pack import Pack
from sweeper.engine.stack import AdapterState
from sweeper.errors import ModelError

_RANK = 8
_TOKENS = 7
_TOLERANCE = 0.25  # of what an adapter does; rounding in bfloat16 stays far below, a neighbour's adapter far above


@torch.no_grad()
def verify(pack: Pack) -> None:
    """Compares two random adapters in one forward with each of them alone, and the head with the model's.

    Raises:
        ModelError: if the head does something else to the logits, a targeted layer is not called, an adapter
            has no effect, or a row depends on its neighbour.
    """
    pack.head.verify(pack.model)
    assert not pack.slots
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in pack.stack.modules.items()
    ]
    adapters = [_random(pack, seed) for seed in (1, 2)]
    for adapter in adapters:
        pack.stack.admit(adapter)
    try:
        _compare(pack, called)
    finally:
        for hook in hooks:
            hook.remove()
        for _ in adapters:
            pack.stack.remove(0)


def _compare(pack: Pack, called: set[str]) -> None:
    kind = type(pack.model).__name__
    rows = [tuple(range(2, 2 + _TOKENS)), tuple(range(3, 1 + _TOKENS))]  # of two lengths, so that one is padded
    items = [Item(slot, tokens) for slot, tokens in enumerate(rows)]
    packed = _hidden(pack, items)
    if missing := sorted(set(pack.stack.modules) - called):
        raise ModelError(
            f"every targeted layer must be called in a forward, but {kind} does not call {len(missing)} of "
            f"{len(pack.stack.modules)}, among them {missing[0]}: an adapter there would learn nothing"
        )
    for item, together in zip(items, packed, strict=True):
        [alone], [base] = _hidden(pack, [item]), _hidden(pack, [item], with_adapters=False)
        effect = float((alone - base).norm())
        if not effect > 1e-4 * float(base.norm()):
            raise ModelError(f"an adapter must change what the model computes, but in {kind} it does not")
        if not float((together - alone).norm()) < _TOLERANCE * effect:
            raise ModelError(
                f"a row must not depend on its neighbours, but in {kind} it does: trials that train together would "
                "change each other; this architecture cannot be packed"
            )


def _hidden(pack: Pack, items: Sequence[Item], with_adapters: bool = True) -> list[Tensor]:
    """Last hidden states `(seq, hidden)` of each item."""
    pack.model.eval()
    [chunk] = chunks(items, 2 * _TOKENS, pack.pad, pack.stack.device)
    with pack.stack.using(pack.stack.layout(chunk.rows) if with_adapters else None):
        hidden = pack.head.hidden(chunk.tokens, chunk.attention_mask).float()
    return [row[: len(item.tokens)] for row, item in zip(hidden, chunk.items, strict=True)]


def _random(pack: Pack, seed: int) -> AdapterState:
    """An adapter at every layer that changes its output by about a tenth."""
    generator = torch.Generator().manual_seed(seed)
    state = AdapterState(rank=_RANK, scale=1.0)

    def matrix(*shape: int, std: float) -> Any:
        return (torch.randn(*shape, generator=generator) * std).to(pack.stack.dtype)

    for name, module in pack.stack.modules.items():
        weight_std = float(module.base.weight.std()) if module.base.weight.is_floating_point() else 0.02
        inputs, outputs = module.base.in_features, module.base.out_features
        state.tensors["weight"][f"{name}.lora_A"] = matrix(_RANK, inputs, std=inputs**-0.5)
        state.tensors["weight"][f"{name}.lora_B"] = matrix(
            outputs, _RANK, std=0.1 * weight_std * (inputs / _RANK) ** 0.5
        )
    return state
