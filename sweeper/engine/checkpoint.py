"""A trial in the middle of its training as one file: weights, moments, place in the data, best adapter.

One safetensors file, so that a checkpoint is there whole or not at all; what is not a tensor is JSON in
the file's header. The header also holds a hash over both, so that a file which a disk or a copy damaged
is never taken for a trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sweeper.engine.bucket import KINDS, AdapterState
from sweeper.engine.loss_scale import LossScale
from sweeper.engine.slot import Slot
from sweeper.errors import CheckpointError
from sweeper.trial import Company, Prediction, Rhythm, TrialParams
from sweeper.units import GIB

_BEST, _PREDICTIONS = "best", "predictions"


def save(file: Path, slot: Slot, state: AdapterState, room_bytes: float = float("inf")) -> None:
    """Writes a checkpoint in place of the last one.

    Args:
        room_bytes: the most that the new file may take; the last one is still there while it is written.

    Raises:
        CheckpointError: if it would take more, or the disk does; the last one is then left as it was.
    """
    tensors = {
        f"{kind}/{name}": tensor.cpu().contiguous() for kind in KINDS for name, tensor in state.tensors[kind].items()
    }
    if slot.best_adapter is not None:
        best = slot.best_adapter.tensors["weight"]
        tensors |= {f"{_BEST}/{name}": tensor.cpu().contiguous() for name, tensor in best.items()}
    if slot.best_predictions is not None:  # as a tensor, for a header of safetensors has its limit
        tensors[_PREDICTIONS] = torch.frombuffer(
            bytearray(json.dumps(slot.best_predictions).encode()), dtype=torch.uint8
        )
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > room_bytes:
        raise CheckpointError(
            f"a checkpoint must fit into checkpoint.max_gib, but {file} takes {size / GIB:.3g} GiB and "
            f"{max(0.0, room_bytes) / GIB:.3g} GiB are left; raise checkpoint.max_gib"
        )
    header = json.dumps(
        {
            "number": slot.number,
            "params": slot.params.model_dump(),
            "rhythm": slot.rhythm.model_dump(),
            "seed": slot.seed,
            "subset": slot.subset,
            "step": slot.step,
            "train_tokens": slot.train_tokens,
            "supervised_tokens": slot.supervised_tokens,
            "duration_s": slot.duration_s,
            "train_s": slot.train_s,
            "peak_bytes": slot.peak_bytes,
            "predicted_bytes": slot.predicted_bytes,
            "evaluations": slot.evaluations,
            "best_evaluation": slot.best_evaluation,
            "loss_scale": slot.loss_scale.model_dump(),
            "company": [company.model_dump() for company in slot.company],
        }
    )
    # A folder: safetensors writes under a random name and renames, so that killed writers would leave file after file.
    temporary = file.with_name(f".{file.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / file.name, metadata={"sweeper": header, "sha256": _sha256(header, tensors)})
        _sync(temporary / file.name)
        os.replace(temporary / file.name, file)
        _sync(file.parent)  # or the new name could be lost with the machine
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {file} must be writable, but: {error}; free the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(file: Path) -> tuple[Slot, AdapterState]:
    """Reads a checkpoint.

    Raises:
        CheckpointError: if it is not what was written.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            for key in opened.keys():  # noqa: SIM118  (not a dictionary)
                tensors[key] = opened.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {file} must be a safetensors file, but: {error}") from error
    if "sweeper" not in metadata or metadata.get("sha256") != _sha256(metadata["sweeper"], tensors):
        raise CheckpointError(f"the checkpoint {file} must be as it was written, but its hash is another")
    try:
        return _read(json.loads(metadata["sweeper"]), tensors)
    except (ValueError, KeyError) as error:  # whole, but of another version of sweeper
        raise CheckpointError(f"the checkpoint {file} must have what a trial has now, but: {error}") from error


def _read(header: dict[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Slot, AdapterState]:
    # A trial from before there was replay had none.
    params = TrialParams.model_validate({"replay": 0.0, **header["params"]})
    state = AdapterState(rank=params.rank, scale=params.scale)
    best = AdapterState(rank=params.rank, scale=params.scale)
    predictions = None  # a checkpoint from before they were kept is as good
    for key, tensor in tensors.items():
        if key == _PREDICTIONS:
            predictions = json.loads(tensor.numpy().tobytes())
            continue
        kind, _, name = key.partition("/")
        (best.tensors["weight"] if kind == _BEST else state.tensors[kind])[name] = tensor
    slot = Slot(
        number=header["number"],
        params=params,
        rhythm=Rhythm.model_validate(header["rhythm"]),
        seed=header["seed"],
        subset=tuple(subset) if (subset := header.get("subset")) is not None else None,
        step=header["step"],
        train_tokens=header["train_tokens"],
        supervised_tokens=header["supervised_tokens"],
        duration_s=header["duration_s"],
        train_s=header.get("train_s", header["duration_s"]),  # of a checkpoint from before it was kept: at the most
        peak_bytes=header.get("peak_bytes", 0),
        predicted_bytes=header.get("predicted_bytes", 0),
        evaluations=header["evaluations"],
        best_evaluation=header["best_evaluation"],
        best_adapter=best if header["best_evaluation"] is not None else None,
        loss_scale=LossScale.model_validate(header.get("loss_scale", {})),
        best_predictions=[Prediction(*item) for item in predictions] if predictions is not None else None,
        company=[Company.model_validate(company) for company in header["company"]],
    )
    return slot, state


def _sha256(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
