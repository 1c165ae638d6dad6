"""Loads the base: a frozen, quantised model.

Guards against a fault of bitsandbytes 0.50 on CPUs with AVX512-BF16: one forward in `eval()`
under `no_grad` repacks a layer's 4-bit weights in place, and every later training forward takes a
kernel without autograd, so that gradients vanish without an error. The layers' switch for that
kernel is turned off here (`guard`). Torch warns when it goes backward through such a kernel; that
warning is an error here.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch.utils._python_dispatch import _disable_current_modes
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from sweeper.config.schema import ModelSection
from sweeper.errors import ModelError
from sweeper.models import copies, origin, quantised
from sweeper.models.copies import Copy
from sweeper.models.source import mapped, source_of, without_progress
from sweeper.paths import Home

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
warnings.filterwarnings("error", message="bitsandbytes.*autograd kernel was not registered")


def load_base(section: ModelSection, home: Home, device: torch.device, spare_bytes: int | None = None) -> Any:
    """The frozen model on `device`, 4-bit where `model.quant` says so; from its quantised copy where there is one.

    Args:
        spare_bytes: what a copy that is written now must leave free on the store's disk; None: none is written.

    Raises:
        ModelError: if it cannot be found or loaded.
    """
    dtype = compute_dtype(section, device)
    with mapped(section), without_progress():
        found = source_of(section, home)
        copy = _copy(section, home, found, dtype, device) if section.quant == "nf4" else None
        model = quantised.read(copy, found, dtype, device) if copy is not None else None
        if model is None:
            model = _from_source(section, found, dtype, device)
            if copy is not None and spare_bytes is not None:
                quantised.write(model, copy, spare_bytes)
    freeze(model)
    return model


def _from_source(section: ModelSection, found: str, dtype: torch.dtype, device: torch.device) -> Any:
    arguments: dict[str, Any] = {"dtype": dtype, "device_map": {"": str(device)}}
    if section.quant == "nf4":
        arguments["quantization_config"] = quantization(dtype)
    return AutoModelForCausalLM.from_pretrained(
        found,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        use_safetensors=True,  # never a pickle
        **arguments,
    )


def _copy(section: ModelSection, home: Home, found: str, dtype: torch.dtype, device: torch.device) -> Copy | None:
    """The quantised copy that a base has or would have."""
    folder = None if origin.find(section).kind == "hub" else Path(found)
    settings = quantization(dtype).to_dict()
    return copies.of(section, folder, home.models, settings, str(dtype).removeprefix("torch."), device.type)


def skeleton(section: ModelSection, home: Home) -> Any:
    """The base without its weights, for which none are downloaded: its modules under their names.

    Raises:
        ModelError: if its configuration cannot be found, or is of no model that transformers knows.
    """
    arguments: dict[str, Any] = {"trust_remote_code": section.trust_remote_code}
    with mapped(section):
        config = AutoConfig.from_pretrained(source_of(section, home), revision=section.revision, **arguments)
        # Nothing of it takes memory, so whoever counts tensors does not see it.
        with _disable_current_modes(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, **arguments)


def freeze(model: Any) -> None:
    """Makes a loaded model a base: nothing of it trains, and nothing in it is random."""
    model.requires_grad_(False)
    guard(model)
    _without_dropout(model)


def quantization(dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's 4-bit format: NF4 with double quantisation (arXiv:2305.14314)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def compute_dtype(section: ModelSection, device: torch.device) -> torch.dtype:
    """What `model.dtype` means on a device.

    Raises:
        ModelError: if it is bfloat16, and the card does not compute in that.
    """
    if section.dtype == "auto":
        return best_dtype(device)
    dtype = DTYPES[section.dtype]
    if dtype is torch.bfloat16 and device.type == "cuda" and not has_bfloat16(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise ModelError(
            f"model.dtype: bfloat16 needs a card that computes in it (compute capability 8.0), but "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor} and would emulate it, slowly; "
            "model.dtype=float16 scales losses instead, and so does auto there"
        )
    return dtype


def best_dtype(device: torch.device) -> torch.dtype:
    """What `model.dtype=auto` means: bfloat16 on CUDA, float16 where a card has none, float32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if has_bfloat16(device) else torch.float16


def has_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA card computes in bfloat16 itself; emulated, it is slower than float32."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def pick_device(name: str) -> torch.device:
    """The device that `engine.device` means.

    Raises:
        ModelError: if it is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"engine.device: {name} is not there; CUDA devices: {torch.cuda.device_count()}")
    return device


def guard(model: Any) -> None:
    """Turns the kernel off that loses gradients, on every 4-bit layer."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def compute_in(model: Any, dtype: torch.dtype) -> None:
    """Makes a frozen model compute in `dtype`, whatever it was saved quantised for; its 4-bit weights stay as they are.

    Of a model that was saved so, transformers loads the other weights as they are, in no other precision.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = dtype


def _without_dropout(model: Any) -> None:
    """Turns a base's own dropout off: it draws from the global generator, so neighbours would change a trial.

    Models keep its rate in modules of torch, in attributes of their own (`attention_dropout`, `layerdrop`,
    `jitter_noise`), or in their configuration. `engine.compatibility` proves that nothing is left.
    """
    for holder in [*model.modules(), model.config, model.config.get_text_config()]:
        if isinstance(holder, torch.nn.modules.dropout._DropoutNd):
            holder.p = 0.0
        for name, value in list(vars(holder).items()):
            if isinstance(value, float) and re.search("drop|jitter", name):
                setattr(holder, name, 0.0)
