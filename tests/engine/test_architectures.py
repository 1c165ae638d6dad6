"""Each architecture on a small random configuration: packed equals PEFT alone, and a generation too."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from sweeper.engine.batches import Item
from sweeper.engine.compatibility import verify
from sweeper.engine.pack import Pack
from sweeper.errors import ModelError
from sweeper.models import base
from sweeper.models.targets import linear_names
from tests.conftest import random_examples, small_model, trial_params
from tests.engine.oracle import admit, largest_difference, new_pack, train_alone, with_peft

STEPS = 3
COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 4.0},
    "gemma3_text": {"sliding_window": 8},
    "phi3": {"resid_pdrop": 0.1},
    "gpt_neox": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    "granite": {"logits_scaling": 5.0, "residual_multiplier": 0.5},
    "cohere": {"logit_scale": 0.3},
    "olmo2": {},
    "stablelm": {},
}


def architecture(kind: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**COMMON, **ARCHITECTURES[kind]})
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for parameter in model.parameters():  # large enough for scaling, capping and attention to matter
        parameter.data.mul_(6.0) if parameter.dim() > 1 else None
    base.freeze(model)
    return model


@pytest.fixture(autouse=True)
def softmax_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager attention (Gemma 2 has no other here) asks for a softmax in float32, which would hide what is compared.

    In float64 its mask is -inf there besides, and padding that a sliding window cuts off from every token is NaN.
    """
    own = nn.functional.softmax

    def softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return own(x, dim=dim, dtype=x.dtype if x.dtype is torch.float64 else dtype)

    monkeypatch.setattr(nn.functional, "softmax", softmax)


TRIALS = [
    trial_params(rank=4, learning_rate=2e-2, batch_size=2, target_modules="attention"),
    trial_params(rank=32, learning_rate=5e-3, batch_size=3, dropout=0.2),
    trial_params(rank=8, learning_rate=1e-2, batch_size=4, target_modules="mlp"),
]


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_an_architecture_trains_packed_as_peft_does_alone(kind: str, gradient_checkpointing: bool) -> None:
    model, examples = architecture(kind), random_examples(20)
    pack = new_pack(deepcopy(model), examples, gradient_checkpointing=gradient_checkpointing)
    verify(pack)
    slots = [admit(pack, number, params) for number, params in enumerate(TRIALS)]
    initial = [pack.state(slot) for slot in slots]
    for _ in range(STEPS):
        pack.tick()
    for slot, params, begin in zip(slots, TRIALS, initial, strict=True):
        alone = train_alone(model, params, begin, examples, STEPS)
        ours = pack.state(slot).tensors["weight"]
        assert largest_difference(ours, alone.weights) <= 1e-12
        assert largest_difference(ours, begin.tensors["weight"]) > 1e-4


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_an_architecture_generates_packed_as_peft_does_alone(kind: str) -> None:
    model, examples = architecture(kind), random_examples(20)
    pack = new_pack(deepcopy(model), examples)
    slots = [admit(pack, number, params) for number, params in enumerate(TRIALS)]
    for _ in range(STEPS):
        pack.tick()
    prompts = [example.prompt for example in examples[:6]]
    # All adapters over the same rows, in one call.
    items = [Item(pack.slots.index(slot), prompt) for slot in slots for prompt in prompts]
    written = pack.generate(items, max_new_tokens=6, end_tokens=[])
    for number, slot in enumerate(slots):
        alone, _ = with_peft(deepcopy(model), slot.params.model_copy(update={"dropout": 0.0}), pack.state(slot))
        alone.eval()
        settings = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0)
        for prompt, tokens in zip(prompts, written[number * len(prompts) :], strict=False):
            expected = alone.generate(torch.tensor([prompt]), generation_config=settings)
            assert tokens == tuple(expected[0, len(prompt) :].tolist())
    assert len(set(written)) > len(prompts)  # the adapters do not all write the same


def test_every_named_architecture_is_here() -> None:
    assert {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt_neox"} <= set(ARCHITECTURES)


def test_a_multimodal_model_is_adapted_where_text_passes() -> None:
    torch.manual_seed(0)
    text = {**COMMON, "eos_token_id": 1, "sliding_window": 8}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
    }
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    from transformers import Gemma3ForConditionalGeneration

    model = Gemma3ForConditionalGeneration(config).double()
    base.freeze(model)
    names = linear_names(model)
    assert names
    assert not any("vision" in name for name in names)
    verify(Pack(model, names, [], pad=0, chunk_tokens=100, dtype=torch.float64))


class Coupled(nn.Module):
    """A layer that looks at the whole batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out + 10 * out.mean(dim=0, keepdim=True)


def test_a_model_whose_rows_depend_on_each_other_is_refused() -> None:
    model: Any = small_model()
    model.model.layers[0].mlp = Coupled(model.model.layers[0].mlp)
    pack = new_pack(model, [])
    with pytest.raises(ModelError, match="a row must not depend on its neighbours, but in LlamaForCausalLM it does"):
        verify(pack)
    assert pack.stack.slots == 0


def test_a_layer_that_is_never_called_is_refused() -> None:
    model: Any = small_model()
    model.model.spare = nn.Linear(32, 32).double()
    with pytest.raises(ModelError, match=r"does not call 1 of 15, among them model\.spare"):
        verify(new_pack(model, []))


def test_a_model_that_cannot_be_checkpointed_is_refused() -> None:
    model: Any = small_model()
    model.supports_gradient_checkpointing = False
    assert new_pack(model, [])
    with pytest.raises(ModelError, match=r"engine\.gradient_checkpointing must be false"):
        new_pack(model, [], gradient_checkpointing=True)
