"""Models of a real size with random weights, in NF4, made on the device, and packs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.data.example import Example
from sweeper.engine.pack import Pack
from sweeper.memory.planner import Planner
from sweeper.models import base
from sweeper.models.targets import linear_names
from sweeper.preflight.case import Case
from sweeper.trial import Rhythm, TrialParams
from tests.conftest import trial_params

CONFIGS = Path(__file__).parents[2] / "conf" / "model"
PUBLISHED = {"0.5b": "qwen2.5-0.5b", "1.5b": "qwen2.5-1.5b", "8b": "llama-3.1-8b"}
SHAPES: dict[str, dict[str, Any]] = {
    **{
        shape: yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["model"]["config"]
        for shape, name in PUBLISHED.items()
    },
    # For a rehearsal without a GPU.
    "toy": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
    },
}


class Unaided(Planner):
    """Repeats no step in smaller parts: what is measured is the step that was asked for, or none."""

    def rescue(self, failure: str) -> None:
        raise torch.OutOfMemoryError(failure)


def random_base(shape: str, device: torch.device) -> Any:
    """A frozen base of `shape` in NF4 and bfloat16; no more than one layer is ever there in full precision."""
    values = dict(SHAPES[shape])
    config = AutoConfig.for_model(values.pop("model_type"), **values, dtype=torch.bfloat16)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            model.set_submodule(name, _quantised(module, device))
    decoder = model.get_decoder()
    decoder.rotary_emb = type(decoder.rotary_emb)(config).to(device)  # its buffers are not parameters
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                made = torch.ones if parameter.dim() == 1 else _normal
                setattr(module, key, nn.Parameter(made(*parameter.shape, dtype=torch.bfloat16, device=device)))
    model.tie_weights()
    base.freeze(model)
    return model


def _normal(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, device=device).mul_(0.02)


def _quantised(module: nn.Linear, device: torch.device) -> Linear4bit:
    layer = Linear4bit(
        module.in_features,
        module.out_features,
        bias=module.bias is not None,
        compute_dtype=torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = _normal(module.out_features, module.in_features, dtype=torch.bfloat16, device=device)
    packed = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=layer)
    layer.weight = packed.to(device)  # this quantises
    if module.bias is not None:
        layer.bias = nn.Parameter(torch.zeros(module.out_features, dtype=torch.bfloat16, device=device))
    return layer


def random_pack(model: Any, case: Case, short_tokens: int = 0) -> Pack:
    """A pack of fresh adapters, each of which reads the same random rows at every tick; a tick is one chunk.

    Args:
        short_tokens: how much shorter than the others the last row of a slot is, where there are several.
    """
    pack = Pack(
        model,
        linear_names(model),
        [],
        pad=0,
        chunk_tokens=0,
        optimizer_state=case.optimizer_state,
        planner=Unaided(gradient_checkpointing=case.is_checkpointed),
    )
    set_rows(pack, case, short_tokens)
    for number in range(case.slots):
        pack.admit(*pack.new_slot(number, _params(case), _rhythm(case), seed=number))
    return pack


def set_rows(pack: Pack, case: Case, short_tokens: int = 0) -> None:
    """Gives a pack the rows of `case`; its adapters stay, which take far longer to make."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(2, pack.model.config.vocab_size, (case.rows, case.seq), generator=generator).tolist()
    if case.rows > 1:
        drawn[-1] = drawn[-1][short_tokens:]
    pack.examples = [Example(tuple(row[: -case.answer_tokens]), tuple(row[-case.answer_tokens :])) for row in drawn]
    pack.chunk_tokens = case.slots * case.rows * case.seq
    for slot in pack.slots:
        slot.params, slot.rhythm = _params(case), _rhythm(case)


def attach(pack: Pack) -> None:
    """Puts a pack's layers into the model in the place of another's, so that packs take turns on one base."""
    for name, module in pack.stack.modules.items():
        pack.model.set_submodule(name, module)
    # The model has one function that recomputes, and a stack sets its own only where it changes something.
    is_checkpointed = pack.planner.gradient_checkpointing is True
    pack.stack.set_gradient_checkpointing(not is_checkpointed)
    pack.stack.set_gradient_checkpointing(is_checkpointed)


def linear_weights(model: Any) -> int:
    """The weights of the linears that adapters stand beside: all but embeddings and head."""
    layers = [model.get_submodule(name) for name in linear_names(model)]
    return sum(layer.in_features * layer.out_features for layer in layers)


def _params(case: Case) -> TrialParams:
    return trial_params(rank=case.rank, target_modules=case.target_modules, batch_size=case.rows)


def _rhythm(case: Case) -> Rhythm:
    return Rhythm(interval_examples=1000 * case.rows, evaluations=1, batch_size=case.rows)
