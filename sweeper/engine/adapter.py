"""An adapter as a folder in PEFT's format, and back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from sweeper.engine.bucket import AdapterState
from sweeper.models.targets import resolve
from sweeper.trial import TrialParams

WEIGHTS = "adapter_model.safetensors"  # PEFT's name
_PREFIX = "base_model.model."


def write(
    folder: Path,
    state: AdapterState,
    params: TrialParams,
    base: str,
    linears: Sequence[str],
    revision: str | None = None,
) -> None:
    """Writes what `PeftModel.from_pretrained` reads, at the adapter's true rank.

    The folder appears whole: it is written beside its place and moved there.

    Args:
        base: what the adapter's config names as its base model.
        revision: of the base, where that is on the Hub.
        linears: every linear of the base, to write the targets as short as they can be.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(temporary, state, params, base, linears, revision)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:  # half of one would only fill the disk
        shutil.rmtree(temporary, ignore_errors=True)


def _write(
    folder: Path, state: AdapterState, params: TrialParams, base: str, linears: Sequence[str], revision: str | None
) -> None:
    folder.mkdir(parents=True)
    targets = resolve(params.target_modules, linears)
    endings = sorted({name.rpartition(".")[2] for name in targets})
    config = LoraConfig(
        r=state.rank,
        lora_alpha=int(params.alpha) if params.alpha == int(params.alpha) else params.alpha,
        use_rslora=params.rslora,
        target_modules=endings if resolve(endings, linears) == targets else targets,
        lora_dropout=params.dropout,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    tensors = {
        f"{_PREFIX}{name}.weight": tensor.to(torch.float32).cpu().contiguous()
        for name, tensor in state.tensors["weight"].items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read(folder: Path, params: TrialParams) -> AdapterState:
    """Reads a folder that `write` wrote."""
    state = AdapterState(rank=params.rank, scale=params.scale)
    for name, tensor in load_file(folder / WEIGHTS).items():
        state.tensors["weight"][name.removeprefix(_PREFIX).removesuffix(".weight")] = tensor
    return state
