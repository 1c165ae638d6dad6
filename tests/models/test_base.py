from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from sweeper.config.schema import Config, ModelSection
from sweeper.errors import ModelError
from sweeper.models import base
from sweeper.models.source import load_tokenizer
from sweeper.models.targets import linear_names, resolve
from sweeper.paths import Home
from tests.conftest import small_model

Compose = Callable[..., Config]
CPU = torch.device("cpu")
CARD = torch.device("cuda:0")


def section(composed: Compose, *overrides: str) -> ModelSection:
    return composed("study=demo", *overrides).model


def test_the_bundled_base_is_nf4_with_double_quantisation(composed: Compose, home: Home) -> None:
    model = base.load_base(section(composed), home, CPU)
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 28
    assert {layer.weight.quant_state.quant_type for layer in layers} == {"nf4"}
    assert all(layer.weight.quant_state.nested for layer in layers)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_without_quantisation_and_in_another_precision(composed: Compose, home: Home) -> None:
    model = base.load_base(section(composed, "model.quant=none", "model.dtype=bfloat16"), home, CPU)
    assert not any(isinstance(module, Linear4bit) for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert 1_500_000 <= model.num_parameters() <= 4_000_000


def test_a_local_folder(composed: Compose, home: Home, tmp_path: Path) -> None:
    small_model(torch.float32, attention_dropout=0.3).save_pretrained(tmp_path / "mine")
    folder = tmp_path / "mine"
    model = base.load_base(section(composed, "model=hub", f"model.path={folder}", "model.quant=none"), home, CPU)
    assert model.config.hidden_size == 32
    # Its own dropout is off: it would draw from the global generator, and neighbours would change a trial.
    assert {m.attention_dropout for m in model.modules() if hasattr(m, "attention_dropout")} == {0.0}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/nowhere/model", "there is no folder /nowhere/model"),
        ("bundled:huge", "there is no bundled model 'huge'; bundled: tiny"),
        ("nobody/nothing", "(?s)'nobody/nothing' could not be loaded .* It must be a folder .* or a Hub id"),
    ],
)
def test_a_model_that_is_not_there(composed: Compose, home: Home, path: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        load_tokenizer(section(composed, "model=hub", f"model.path={path}"), home)


def test_dtype_and_device(composed: Compose) -> None:
    auto = section(composed)
    assert base.compute_dtype(auto, CPU) is torch.float32
    assert base.compute_dtype(section(composed, "model.dtype=float32"), CARD) is torch.float32
    assert base.pick_device("cpu") == CPU
    with pytest.raises(ModelError, match="cuda:99 is not there"):
        base.pick_device("cuda:99")


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_card_without_bfloat16_computes_in_float16(
    composed: Compose, monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(including_emulation) or has_bfloat16
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    auto, explicit = section(composed), section(composed, "model.dtype=bfloat16")
    assert base.compute_dtype(auto, CARD) is (torch.bfloat16 if has_bfloat16 else torch.float16)
    assert base.compute_dtype(explicit, CPU) is torch.bfloat16
    if has_bfloat16:
        assert base.compute_dtype(explicit, CARD) is torch.bfloat16
    else:
        with pytest.raises(ModelError, match=r"Tesla T4 has 7\.5 and would emulate it, slowly; model\.dtype=float16"):
            base.compute_dtype(explicit, CARD)
    assert set(asked) == {False}  # an emulated one does not count


def test_targets() -> None:
    names = linear_names(small_model())
    assert len(names) == 14
    assert "lm_head" not in names
    assert resolve("all-linear", names) == names
    assert {name.rpartition(".")[2] for name in resolve("attention", names)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {name.rpartition(".")[2] for name in resolve("mlp", names)} == {"gate_proj", "up_proj", "down_proj"}
    assert resolve(["q_proj", "model.layers.1.mlp.up_proj"], names) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    ]
    assert resolve(["mlp", "q_proj"], names) == [name for name in names if "mlp" in name or name.endswith("q_proj")]
    with pytest.raises(ModelError, match=r"unknown module `q_prj`; did you mean `q_proj`\?"):
        resolve(["q_prj"], names)


def test_targets_by_a_regular_expression_as_peft_reads_it() -> None:
    names = linear_names(small_model())
    assert resolve(r".*\.1\..*\.(q_proj|v_proj)", names) == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    peft = get_peft_model(small_model(), LoraConfig(target_modules=r".*\.1\..*\.(q_proj|v_proj)"))
    adapted = {name.removeprefix("base_model.model.") for name, m in peft.named_modules() if hasattr(m, "lora_A")}
    assert adapted == set(resolve(r".*\.1\..*\.(q_proj|v_proj)", names))
    with pytest.raises(
        ModelError, match=r"must match a whole name, such as model\.layers\.0\.self_attn\.q_proj, but 'q_proj\|v_proj'"
    ):
        resolve("q_proj|v_proj", names)


def test_a_model_without_linear_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))  # Conv1D throughout
    with pytest.raises(ModelError, match="must have linear layers"):
        linear_names(model)
