"""A trial's adapter merged into its base, as a folder that transformers loads.

The base is the one that was trained on: each quantised weight as the 4-bit kernels read it. A merge into the published
16-bit weights, of which these are a rounding, would answer otherwise (arXiv:2309.14717 measures by how much).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

from sweeper.config.schema import ModelSection
from sweeper.engine import adapter
from sweeper.engine.bucket import AdapterState
from sweeper.errors import ExportError
from sweeper.exporting.fresh import digest
from sweeper.models import base
from sweeper.models.source import without_progress
from sweeper.paths import Home
from sweeper.trial import TrialParams

SHARD = "4GB"


def write(
    folder: Path, weights: Path, params: TrialParams, section: ModelSection, home: Home, device: str
) -> dict[str, str]:
    """Writes the merged model in 16 bits, with its configuration; the tokenizer is the caller's.

    Args:
        weights: the folder of the adapter.

    Returns:
        The hash of each weight, by its name.

    Raises:
        ModelError: if the base cannot be loaded.
        ExportError: if the adapter does not fit it.
    """
    model = base.load_base(section, home, base.pick_device(device))
    dtype = half(model.dtype)
    tensors = merged(model, adapter.read(weights, params), dtype)
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    del model
    with torch.device("meta"):
        whole: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=section.trust_remote_code)
    whole.load_state_dict(tensors, strict=False, assign=True)
    whole.tie_weights()
    if empty := [name for name, tensor in whole.named_parameters() if tensor.is_meta]:
        raise ExportError(
            f"a merged model must have every weight of its base, but {', '.join(empty[:3])} got none; "
            "export --format adapter"
        )
    with without_progress():
        whole.save_pretrained(folder, max_shard_size=SHARD)
    return {name: digest(tensor) for name, tensor in whole.named_parameters()}


def half(dtype: torch.dtype) -> torch.dtype:
    """The 16-bit format of a base that computes in `dtype`."""
    return torch.float16 if dtype is torch.float16 else torch.bfloat16


def merged(model: Any, state: AdapterState, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights of base and adapter, W + scale · B · A, added up in float32 and rounded once.

    Raises:
        ExportError: if the adapter has weights for a module that the base does not have.
    """
    pairs = state.tensors["weight"]
    waiting = {name.rpartition(".")[0] for name in pairs}
    quantised = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if any(
            name.startswith(f"{linear}.weight.") for linear in (owner, owner.rpartition(".")[0]) if linear in quantised
        ):
            continue  # what the 4-bit format keeps beside a weight
        weight = tensor
        if owner in quantised and leaf == "weight":
            packed = quantised[owner].weight
            weight = bnb.dequantize_4bit(packed.data, packed.quant_state)
        if leaf == "weight" and owner in waiting:
            waiting.remove(owner)
            a, b = (pairs[f"{owner}.lora_{side}"].to(weight.device, torch.float32) for side in "AB")
            weight = weight.to(torch.float32) + state.scale * (b @ a)
        found[name] = weight.to(dtype).cpu() if weight.is_floating_point() else weight.cpu()
    if waiting:
        raise ExportError(
            f"an adapter must fit its base, but there is no {min(waiting)} in it; export the study's base again"
        )
    return found


def quantise(merged: Path, folder: Path, section: ModelSection, device: str) -> None:
    """Writes a merged model in QLoRA's 4-bit format: one more rounding, so not exactly what was trained."""
    place = base.pick_device(device)
    dtype = base.compute_dtype(section, place)
    with without_progress():
        model: Any = AutoModelForCausalLM.from_pretrained(
            merged,
            dtype=dtype,
            device_map={"": str(place)},
            quantization_config=base.quantization(dtype),
            trust_remote_code=section.trust_remote_code,
        )
        model.save_pretrained(folder, max_shard_size=SHARD)
