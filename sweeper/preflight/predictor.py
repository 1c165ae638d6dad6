"""The formula of one base, fitted to traces of it, which are made in processes of their own and kept on the disk."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from sweeper.errors import ModelError
from sweeper.memory.formula import MODES, Formula
from sweeper.paths import write_atomically
from sweeper.preflight.case import Extent, ModelShape

TIMEOUT_S = 300
MOST_CHARACTERS = 300  # transformers lists every model type that it knows
# What the traced code belongs to.
_MODEL_ERROR = "sweeper.errors.ModelError: "
_TRACED = ("torch", "transformers", "bitsandbytes", "peft")
_OWN = ("engine", "preflight", "memory", "models")


def fitted(shape: ModelShape, extent: Extent, folder: Path | None = None) -> Formula:
    """The formula of a base, from the configuration of its model alone.

    Args:
        folder: where formulas are kept; None: nowhere.

    Raises:
        ModelError: if the model cannot be traced.
    """
    request = {"shape": shape.as_dict(), "extent": extent.as_dict()}
    file = folder / f"formula-{_key(request)}.json" if folder is not None else None
    if file is not None and (known := _kept(file)) is not None:
        return known
    processes = [_start(request, mode) for mode in MODES]
    try:
        formula = _merged([_answer(process, request) for process in processes])
    finally:
        for process in processes:  # those that were not waited for, where one has failed
            process.kill()
            process.communicate()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(formula.as_dict()))
    return formula


def _kept(file: Path) -> Formula | None:
    """The formula in a file; None where there is none, or a damaged one."""
    try:
        return Formula.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _start(request: dict[str, Any], mode: str) -> subprocess.Popen[str]:
    """A process for each mode: they are independent, and together take half as long."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sweeper.preflight.trace"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # No device is needed, and one that is there must not be touched; nothing is compiled.
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TORCHDYNAMO_DISABLE": "1",
        },
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({**request, "modes": [mode]}))
    process.stdin.close()
    process.stdin = None
    return process


def _answer(process: subprocess.Popen[str], request: dict[str, Any]) -> Formula:
    try:
        out, problems = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, problems = "", f"it took more than {TIMEOUT_S} s"
    if process.returncode != 0:
        kind = request["shape"]["config"].get("model_type")
        last = (problems.strip().splitlines() or ["no message"])[-1]
        if last.startswith(_MODEL_ERROR):  # said in our words already
            raise ModelError(last.removeprefix(_MODEL_ERROR))
        raise ModelError(
            f"the memory of a {kind!r} model must be traceable on tensors without values, but: {last[:MOST_CHARACTERS]}"
        )
    return Formula.from_dict(json.loads(out))


def _merged(formulas: list[Formula]) -> Formula:
    coefficients = {mode: values for formula in reversed(formulas) for mode, values in formula.coefficients.items()}
    return Formula(formulas[0].dimensions, coefficients, bound=1.0, is_traced=True)


def _key(request: dict[str, Any]) -> str:
    """A digest of what was asked, and of the code that was traced."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode())
    for name in _TRACED:
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    for package in _OWN:
        for file in sorted(resources.files("sweeper").joinpath(package).iterdir(), key=lambda file: file.name):
            if file.name.endswith(".py"):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:24]
