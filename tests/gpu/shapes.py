"""Models of a real size with random weights, in NF4, made on the device: what time and memory ask for."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.models import base

SHAPES: dict[str, dict[str, Any]] = {
    # Qwen2.5-0.5B and Llama-3.1-8B, from their published configurations.
    "0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
    "8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
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
