from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.engine import head as head_module
from sweeper.engine.head import Head
from sweeper.errors import ModelError
from tests.conftest import small_model

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCALED = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 5.0},
    "llama": {},
}


def architecture(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SMALL, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():  # large enough for scaling and capping to matter
        parameter.data.mul_(8.0) if parameter.dim() > 1 else None
    return model


@pytest.mark.parametrize("kind", SCALED)
def test_logits_are_the_models_own(kind: str) -> None:
    model = architecture(kind, **SCALED[kind])
    Head(model).verify(model)


@pytest.mark.parametrize("kind", ["gemma2", "cohere", "granite"])
def test_a_transformation_that_is_left_out_refuses_the_model(kind: str) -> None:
    model = architecture(kind, **SCALED[kind])
    head = Head(model)
    head.scale, head.softcap = 1.0, None
    with pytest.raises(ModelError, match="transforms its logits in a way that is not known"):
        head.verify(model)


def test_losses_in_chunks_equal_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    head = Head(model)
    hidden = torch.randn(11, 32, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 96, (11,))
    expected = functional.cross_entropy(model.lm_head(hidden), targets, reduction="none")
    [expected_grad] = torch.autograd.grad(expected.sum(), hidden)
    monkeypatch.setattr(head_module, "CHUNK_POSITIONS", 4)
    losses = head.losses(hidden, targets)
    [grad] = torch.autograd.grad(losses.sum(), hidden)
    assert torch.allclose(losses, expected, atol=1e-14)
    assert torch.allclose(grad, expected_grad, atol=1e-14)
