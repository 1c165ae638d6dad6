"""Loads a base from its quantised copy, and writes that copy after the base was quantised for the first time.

The copy is transformers' own format of a 4-bit model. One that was written is read back at once and held against the
model, bit by bit; only then does it appear in the store.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM

from sweeper.models import copies
from sweeper.models.copies import Copy
from sweeper.units import size_text

SHARD = "1GB"  # of a file: what lies on a GPU passes through the machine's memory in pieces of this size
logger = logging.getLogger(__name__)
# What transformers and safetensors raise for files that are gone, damaged, or not what the model asks for.
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
_UNWRITABLE = (*_UNREADABLE, AttributeError, TypeError, ImportError, MemoryError)  # of models that are saved oddly


class _OtherBitsError(ValueError):
    """What was written is not what is read."""


def read(copy: Copy, source: str, dtype: torch.dtype, device: torch.device) -> Any | None:
    """The model of a copy; None where there is no whole one, which is logged where it is damaged.

    Args:
        source: what it is a copy of, as the model names it.
    """
    if not copy.exists:
        return None
    if fault := copy.fault():
        logger.warning("the quantised copy of the base in %s is not used: %s", copy.folder, fault)
        return None
    try:
        model = _loaded(copy.folder, dtype, device)
    except _UNREADABLE as error:  # where memory ran out, it will for the source too, and is told then
        logger.warning("the quantised copy of the base in %s cannot be loaded: %s", copy.folder, error)
        return None
    if device.type == "cpu":
        _own(model)
    model.name_or_path = model.config.name_or_path = source
    return model


def write(model: Any, copy: Copy, spare_bytes: int) -> None:
    """Writes the copy of a model that was loaded just now; that there is none, and why, is logged.

    Of several processes one writes, and the others do without.

    Args:
        spare_bytes: what must stay free on the disk.
    """
    started = time.monotonic()
    try:
        copy.folder.parent.mkdir(parents=True, exist_ok=True)
        if reason := _against(model, copy, spare_bytes):
            logger.info("no quantised copy of the base is kept: %s", reason)
            return
        with FileLock(copy.folder.parent / copies.LOCK, timeout=0):
            if copy.fault() is None:
                return
            size = _write(model, copy)
    except Timeout:
        logger.info("no quantised copy of the base is kept here: another process is writing one")
    except _UNWRITABLE as error:
        logger.warning("no quantised copy of the base could be kept in %s: %s", copy.folder, error)
    else:
        took = time.monotonic() - started
        logger.info("a quantised copy of the base is in %s (%s, %.1f s)", copy.folder, size_text(size), took)


def _loaded(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, device_map={"": str(device)}, use_safetensors=True, trust_remote_code=False
    )


def _own(model: Any) -> None:
    """Copies tensors that are views of a file into memory: on aligned addresses, and safe from what becomes of it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            for each in (state, state.state2) if state.nested else (state,):
                each.absmax, each.code = each.absmax.clone(), each.code.clone()


def _against(model: Any, copy: Copy, spare_bytes: int) -> str | None:
    """Why a model is not copied, in words; None where it is."""
    if not model.hf_quantizer or model.hf_quantizer.pre_quantized:
        return "it was quantised before"
    values = sum(
        module.in_features * module.out_features for module in model.modules() if isinstance(module, Linear4bit)
    )
    if values < copies.WORTH_VALUES:
        return f"quantising its {values:,} values takes no time"
    taken = sum(tensor.numel() * tensor.element_size() for _, tensor in _tensors(model))
    free = shutil.disk_usage(copy.folder.parent).free
    if free - taken < spare_bytes:
        return (
            f"it takes {size_text(taken)}, and of {size_text(free)} that are free in {copy.folder.parent} "
            f"{size_text(spare_bytes)} must stay so"
        )
    return None


def _write(model: Any, copy: Copy) -> int:
    """Writes a copy, in place of a damaged one; returns its size in bytes."""
    temporary = copy.folder.with_name(f".{copy.folder.name}.{os.getpid()}")
    try:
        _save(model, temporary)
        _compare(model, _loaded(temporary, model.dtype, torch.device("cpu")))
        manifest = {"key": copy.key, "files": copies.hashes(temporary)}
        (temporary / copies.MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        size = sum(file.stat().st_size for file in temporary.iterdir())
        if copy.exists:
            shutil.rmtree(copy.folder)
        os.replace(temporary, copy.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return size


def _save(model: Any, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded modules")  # a CPU's
        model.save_pretrained(folder, max_shard_size=SHARD)


def _compare(model: Any, other: Any) -> None:
    """Raises _OtherBitsError where two models do not have the same tensors."""
    ours, theirs = dict(_tensors(model)), dict(_tensors(other))
    if ours.keys() != theirs.keys():
        raise _OtherBitsError(f"{min(ours.keys() ^ theirs.keys())} is not in both")
    for name, tensor in ours.items():
        mine, its = (each.detach().cpu().contiguous().reshape(-1) for each in (tensor, theirs[name]))
        is_alike = (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape)
        if not is_alike or not torch.equal(mine.view(torch.uint8), its.view(torch.uint8)):
            raise _OtherBitsError(f"{name} is not read as it was written")


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """All that a model computes with, the scales of its 4-bit weights included; what is tied is there once."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            for part, tensor in module.weight.quant_state.as_dict(packed=True).items():
                yield f"{name}.{part}", tensor
