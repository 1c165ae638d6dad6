"""A trial in the middle of its training as one file: weights, moments, place in the data, best adapter.

One safetensors file, so that a checkpoint is there whole or not at all; what is not a tensor is JSON
in the file's header.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from sweeper.engine.lora import KINDS, AdapterState
from sweeper.engine.pack import Slot
from sweeper.trial import Rhythm, TrialParams

_BEST = "best"


def save(file: Path, slot: Slot, state: AdapterState) -> None:
    """Writes a checkpoint in place of the last one."""
    tensors = {f"{kind}/{name}": tensor.cpu() for kind in KINDS for name, tensor in state.tensors[kind].items()}
    if slot.best_adapter is not None:
        best = slot.best_adapter.tensors["weight"]
        tensors |= {f"{_BEST}/{name}": tensor.cpu() for name, tensor in best.items()}
    header = {
        "number": slot.number,
        "params": slot.params.model_dump(),
        "rhythm": slot.rhythm.model_dump(),
        "step": slot.step,
        "train_tokens": slot.train_tokens,
        "supervised_tokens": slot.supervised_tokens,
        "duration_s": slot.duration_s,
        "evaluations": slot.evaluations,
        "best_evaluation": slot.best_evaluation,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")  # one name, so that a killed writer leaves one file at most
    save_file(tensors, temporary, metadata={"sweeper": json.dumps(header)})
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(temporary, file)


def load(file: Path) -> tuple[Slot, AdapterState]:
    """Reads a checkpoint."""
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["sweeper"])
        params = TrialParams.model_validate(header["params"])
        state = AdapterState(rank=params.rank, scale=params.scale)
        best = AdapterState(rank=params.rank, scale=params.scale)
        for key in opened.keys():  # noqa: SIM118  (not a dictionary)
            kind, _, name = key.partition("/")
            tensors = best.tensors["weight"] if kind == _BEST else state.tensors[kind]
            tensors[name] = opened.get_tensor(key)
    slot = Slot(
        number=header["number"],
        params=params,
        rhythm=Rhythm.model_validate(header["rhythm"]),
        step=header["step"],
        train_tokens=header["train_tokens"],
        supervised_tokens=header["supervised_tokens"],
        duration_s=header["duration_s"],
        evaluations=header["evaluations"],
        best_evaluation=header["best_evaluation"],
        best_adapter=best if header["best_evaluation"] is not None else None,
    )
    return slot, state
