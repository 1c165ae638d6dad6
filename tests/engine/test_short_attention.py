from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sweeper.engine import short_attention
from sweeper.engine.short_attention import ShortAttention, is_short

SCALING = 0.3


def states(heads: int, few: int, queries: int, keys: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = [(heads, queries), (few, keys), (few, keys)]
    # As the layers of a model hand them over: heads lie behind the tokens.
    return [torch.randn(3, length, count, 8).transpose(1, 2).requires_grad_() for count, length in sizes]


@pytest.mark.parametrize(("heads", "few"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("shared", [0, 5])
@pytest.mark.parametrize("block_values", [2**20, 100])
def test_it_is_torchs_attention_and_its_gradient(
    monkeypatch: pytest.MonkeyPatch, heads: int, few: int, shared: int, block_values: int
) -> None:
    monkeypatch.setattr(short_attention, "BLOCK_VALUES", block_values)
    query, key, value = states(heads, few, 7, 7 + shared)
    mask = torch.ones(7, 7 + shared, dtype=torch.bool).tril(shared)
    outputs = [
        ShortAttention.apply(query, key, value, mask, SCALING),  # type: ignore[no-untyped-call]
        functional.scaled_dot_product_attention(query, key, value, mask, scale=SCALING, enable_gqa=True),
    ]
    torch.testing.assert_close(*outputs)
    weight = torch.randn_like(outputs[0])
    ours, theirs = (torch.autograd.grad((output * weight).sum(), (query, key, value)) for output in outputs)
    torch.testing.assert_close(ours, theirs)


def test_it_is_for_short_rows_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    key = torch.zeros(1, 1, short_attention.MOST_KEYS, 8, dtype=torch.bfloat16)
    assert is_short(key, key, key)
    assert not is_short(*[key.float()] * 3)
    assert not is_short(*[torch.cat([key, key], 2)] * 3)
    assert not is_short(key, key, key[..., :4])  # as multi-head latent attention has it
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not is_short(key, key, key)
