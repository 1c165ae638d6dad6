"""Models of fake tensors: their shapes and types, and no values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.models import base
from sweeper.preflight.case import ModelShape


def with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """A configuration with fewer layers; what it lists for each layer is cut too."""
    whole = config["num_hidden_layers"]
    cut = {k: v[:layers] if isinstance(v, list) and len(v) == whole else v for k, v in config.items()}
    return {**cut, "num_hidden_layers": layers}


def fake_base(shape: ModelShape, config: Mapping[str, Any]) -> Any:
    """A frozen model of fake tensors, as `models.base.load_base` makes a real one."""
    values = dict(config)
    dtype = base.DTYPES[shape.dtype]
    made = AutoConfig.for_model(values.pop("model_type"), **values)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model: Any = AutoModelForCausalLM.from_config(made, dtype=dtype)
    finally:
        torch.set_default_dtype(before)
    if shape.quant == "nf4":
        head = model.get_output_embeddings()
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and module is not head:
                model.set_submodule(name, _quantised(module, dtype))
    base.freeze(model)
    return model


def _quantised(linear: nn.Linear, dtype: torch.dtype) -> Linear4bit:
    """A Linear4bit of fake tensors. `Params4bit` cannot wrap one; a parameter with a `quant_state` does as well."""
    values = linear.out_features * linear.in_features
    blocks = -(-values // 64)
    made = Linear4bit.__new__(Linear4bit)
    nn.Module.__init__(made)
    state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8),
        shape=torch.Size((linear.out_features, linear.in_features)),
        dtype=dtype,
        blocksize=64,
        code=torch.empty(16),
        quant_type="nf4",
        offset=torch.empty(()),
        state2=QuantState(
            absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
        ),
    )
    made.in_features, made.out_features = linear.in_features, linear.out_features
    made.weight = nn.Parameter(torch.empty(-(-values // 2), 1, dtype=torch.uint8), requires_grad=False)
    made.weight.quant_state = state
    made.weight.bnb_quantized = True
    made.quant_state = state
    made.compute_dtype = dtype
    made.compute_type_is_set = True
    made.quant_storage = torch.uint8
    made.bias = linear.bias
    return made


@contextmanager
def without_initialisation() -> Iterator[None]:
    """Fake weights need no values, and drawing them takes most of a model's construction."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_args, **_kwargs: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)
