"""The sizes of a base, real or fake, that its memory depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

from sweeper.engine.lora import PackedLoRA
from sweeper.memory.formula import Dimensions, Targeted, target_key
from sweeper.memory.live import BLOCK_BYTES
from sweeper.models.targets import linear_names, resolve


def dimensions_of(model: Any, targets: Sequence[Any], dtype: torch.dtype, has_dropout: bool) -> Dimensions:
    """The sizes of a frozen base.

    Args:
        targets: all choices of target modules that a study has.
        dtype: of the computation.
    """
    config = model.config.get_text_config()
    linears = {
        # The linears of a pack are inside of its layers.
        name.removesuffix(".base")
        if isinstance(model.get_submodule(name.rpartition(".")[0]), PackedLoRA)
        else name: model.get_submodule(name)
        for name in linear_names(model)
    }
    names = list(linears)
    widths = {name: linear.in_features + linear.out_features for name, linear in linears.items()}
    layers = int(config.num_hidden_layers)
    chosen = {target_key(choice): resolve(choice, names) for choice in targets}
    packed = bytes_of(quantised_tensors(model))
    everything = bytes_of([*quantised_tensors(model), *model.parameters(), *model.buffers()])
    return Dimensions(
        hidden=int(config.hidden_size),
        layers=layers,
        vocabulary=int(config.vocab_size),
        compute_bytes=dtype.itemsize,
        weights_4bit_bytes=packed,
        weights_other_bytes=everything - packed,
        io=sum(widths.values()) / layers,
        wide=max(widths.values()),
        largest=max(linear.in_features * linear.out_features for linear in linears.values()),
        targets={
            key: Targeted(
                linears=len(found) / layers,
                widths=sum(widths[name] for name in found),
                half=max(
                    sum(linears[name].in_features for name in found),
                    sum(linears[name].out_features for name in found),
                ),
            )
            for key, found in chosen.items()
        },
        has_dropout=has_dropout,
    )


def quantised_tensors(model: nn.Module) -> Iterator[Tensor]:
    """The 4-bit weights of a model, with their scales."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            nested = (state.offset, state.state2.absmax, state.state2.code) if state.nested else ()
            yield from (module.weight, state.absmax, state.code, *nested)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What the storages of tensors take, each once, as an allocator rounds them."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in storages.values())
