from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sweeper.engine import head as head_module
from sweeper.engine.head import Head
from sweeper.errors import ModelError
from tests.conftest import small_model
from tests.engine.test_architectures import architecture

SCALED = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 5.0},
    "llama": {},
}


@pytest.mark.parametrize("kind", SCALED)
def test_logits_are_the_models_own(kind: str) -> None:
    model = architecture(kind, torch.float32, **SCALED[kind])
    Head(model).verify(model)


@pytest.mark.parametrize("kind", ["gemma2", "cohere", "granite"])
def test_a_transformation_that_is_left_out_refuses_the_model(kind: str) -> None:
    model = architecture(kind, torch.float32, **SCALED[kind])
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
    monkeypatch.setattr(head_module, "HEAD_POSITIONS", 4)
    losses = head.losses(hidden, targets)
    [grad] = torch.autograd.grad(losses.sum(), hidden)
    assert torch.allclose(losses, expected, atol=1e-14)
    assert torch.allclose(grad, expected_grad, atol=1e-14)
