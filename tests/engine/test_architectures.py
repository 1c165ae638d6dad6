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
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.2, "attention_dropout": 0.1},  # not in modules
    "seed_oss": {"residual_dropout": 0.2, "attention_dropout": 0.1},
    "stablelm": {},
}


def architecture(kind: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A small frozen model of one architecture with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**COMMON, **ARCHITECTURES[kind], **changes})
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
    written = [tokens for tokens, _ in pack.generate(items, max_new_tokens=6, end_tokens=[])]
    for number, slot in enumerate(slots):
        alone, _ = with_peft(deepcopy(model), slot.params.model_copy(update={"dropout": 0.0}), pack.state(slot))
        alone.eval()
        settings = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0)
        for prompt, tokens in zip(prompts, written[number * len(prompts) :], strict=False):
            expected = alone.generate(torch.tensor([prompt]), generation_config=settings)
            assert tokens == tuple(expected[0, len(prompt) :].tolist())
    assert len(set(written)) > len(prompts)  # the adapters do not all write the same


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
        return out + 0.1 * out.mean(dim=0, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_whose_rows_depend_on_each_other_is_refused(dtype: torch.dtype) -> None:
    model: Any = small_model(dtype)
    model.model.layers[0].mlp = Coupled(model.model.layers[0].mlp)
    pack = new_pack(model, [], dtype=dtype)
    with pytest.raises(ModelError, match="a row must not depend on its neighbours, but in LlamaForCausalLM it does"):
        verify(pack)
    assert pack.stack.slots == 0


class Random(nn.Module):
    """A dropout that nobody can turn off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.1, self.training)


def test_a_model_with_something_random_in_it_is_refused() -> None:
    model: Any = small_model()
    model.model.layers[1].post_attention_layernorm = Random()
    with pytest.raises(ModelError, match="nothing in a base may be random, but two training forwards"):
        verify(new_pack(model, []))


class Experts(nn.Module):
    """Layers that see the tokens that chose them."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = nn.Linear(32, 32, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_chosen = (torch.arange(x.shape[0] * x.shape[1]) % 3 == 0).view(x.shape[:2])
        out = torch.zeros_like(x)
        out[is_chosen] = self.expert(x[is_chosen])
        return out


def test_a_layer_that_sees_some_tokens_only_is_refused() -> None:
    model: Any = small_model()
    model.model.layers[1].mlp = Experts()
    with pytest.raises(ModelError, match="a layer must see every token of 2 rows, but one got 5 tokens"):
        verify(new_pack(model, []))


class Tuple(nn.Linear):
    """A layer that gives more than its output."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), None


def test_a_model_that_does_not_run_with_adapters_is_refused() -> None:
    model: Any = small_model()
    model.model.layers[1].mlp.extra = Tuple(32, 32, dtype=torch.float64)
    own = model.model.layers[1].mlp.forward
    model.model.layers[1].mlp.forward = lambda x: own(x) + model.model.layers[1].mlp.extra(x)[0]
    with pytest.raises(
        ModelError, match=r"must run with adapters at its linear layers, but .* \(AttributeError: .*tuple"
    ):
        verify(new_pack(model, []))


def test_a_model_that_sees_its_padding_is_refused() -> None:
    model: Any = small_model()
    own = model.model.forward
    model.model.forward = lambda attention_mask=None, **kwargs: own(attention_mask=None, **kwargs)
    with pytest.raises(ModelError, match="a row must not depend on padding before it"):
        verify(new_pack(model, []))


def test_a_head_that_leaves_something_out_is_refused() -> None:
    pack = new_pack(architecture("granite"), [])
    pack.head.scale = 1.0
    with pytest.raises(ModelError, match="transforms its logits in a way that is not known"):
        verify(pack)


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
