"""Python, the packages with their versions, bitsandbytes' library for torch's CUDA, and training in 4 bits, tried."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

import sweeper.models  # noqa: F401  (before bitsandbytes, whose needless warning it turns off)
from sweeper.cli.finding import Finding, State

SHOWN = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "mlflow", "datasets", "hydra-core")
_LIBRARY = re.compile(r"libbitsandbytes_cuda(\d\d)(\d+)\.(so|dll)")  # CUDA 12.8: cuda128


def python() -> Finding:
    version = platform.python_version()
    is_ok = sys.version_info >= (3, 11)
    cure = (
        None if is_ok else "uv venv --python 3.12, or sudo apt-get install python3.12-venv, and install sweeper there"
    )
    return Finding("python", State.of(is_ok), version if is_ok else f"{version}, but must be 3.11 or newer", cure)


def libraries() -> Finding:
    """Every package that sweeper needs: whether it is here, and new enough."""
    shown, wrong = [], []
    for needed in _needed():
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append((needed, f"{needed.name} is missing"))
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong.append((needed, f"{needed.name} {version} must be {needed.specifier}"))
        elif needed.name in SHOWN:
            shown.append(f"{needed.name} {version}")
    if not wrong:
        return Finding("libraries", State.OK, ", ".join(sorted(shown, key=lambda one: SHOWN.index(one.split()[0]))))
    asked = " ".join(f"'{needed.name}{needed.specifier}'" for needed, _ in wrong)
    return Finding("libraries", State.MISSING, "; ".join(why for _, why in wrong), f"pip install {asked}")


def _needed() -> list[Requirement]:
    """What sweeper's metadata names, but for extras; the libraries that are shown, where it is not installed."""
    try:
        named = [Requirement(line) for line in importlib.metadata.requires("sweeper") or ()]
    except importlib.metadata.PackageNotFoundError:
        return [Requirement(name) for name in SHOWN]
    return [one for one in named if one.marker is None or one.marker.evaluate({"extra": ""})]


def quantised_library() -> Finding | None:
    """The library that bitsandbytes would load, chosen as its `cextension.get_cuda_bnb_library_path` does."""
    import torch

    folder = _folder()
    if folder is None:  # `libraries` says so
        return None
    if torch.version.cuda is None or not torch.cuda.is_available():
        if any(folder.glob("libbitsandbytes_cpu.*")):
            return None
        detail = f"{folder} has none for CPUs, so that 4-bit layers are computed by torch alone, many times slower"
        return Finding("4-bit library", State.WARNING, detail, _again())
    there = {
        (int(match[1]), int(match[2])): file
        for file in folder.glob("libbitsandbytes_cuda*")
        if (match := _LIBRARY.fullmatch(file.name))
    }
    has = ", ".join(f"{major}.{minor}" for major, minor in sorted(there)) or "none at all"
    asked = os.environ.get("BNB_CUDA_VERSION")
    if asked is not None:
        if any(f"cuda{asked}." in file.name for file in there.values()):
            detail = f"that for CUDA {asked}, as BNB_CUDA_VERSION says; torch is built for {torch.version.cuda}"
            return Finding("4-bit library", State.NOTE, detail, "unset BNB_CUDA_VERSION where it is not meant")
        detail = f"BNB_CUDA_VERSION={asked} names a CUDA that bitsandbytes has no library for; it has {has}"
        return Finding("4-bit library", State.MISSING, detail, "unset BNB_CUDA_VERSION")
    wanted = tuple(int(part) for part in torch.version.cuda.split(".")[:2])
    alike = sorted(version for version in there if version[0] == wanted[0])
    if not alike:
        detail = f"torch is built for CUDA {torch.version.cuda}, and bitsandbytes has no library for that; it has {has}"
        return Finding("4-bit library", State.MISSING, detail, f"{_again()}; or a torch for one of these")
    older = [version for version in alike if version <= wanted]
    chosen = max(older) if older else min(alike)
    return Finding("4-bit library", State.OK, f"{there[chosen].name}, for torch's CUDA {torch.version.cuda}")


def _folder() -> Path | None:
    """Where bitsandbytes is, which to import would load its library."""
    spec = importlib.util.find_spec("bitsandbytes")
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


def _again() -> str:
    return "pip install -U --force-reinstall --no-deps bitsandbytes"


def quantised_training() -> Finding | None:
    """One 4-bit layer: the gradient through it before and after an evaluation, as a search alternates them."""
    library = quantised_library()
    if library is not None and library.state is State.MISSING:
        return None  # its finding says what to do; bitsandbytes would print a trace
    import torch
    from bitsandbytes.cextension import ErrorHandlerMockBNBNativeLibrary, lib
    from bitsandbytes.nn import Linear4bit
    from torch import nn

    from sweeper.models.base import best_dtype, guard

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and isinstance(lib, ErrorHandlerMockBNBNativeLibrary):
        detail = f"bitsandbytes cannot load its library: {lib.error_msg}"
        return Finding("4-bit training", State.MISSING, detail, f"python -m bitsandbytes says more; {_again()}")
    dtype = best_dtype(torch.device(device))
    layer = Linear4bit(64, 64, bias=False, compute_dtype=dtype, quant_type="nf4").to(device)
    guard(nn.ModuleList([layer]))
    norms = []
    for _ in range(2):
        layer.train()
        x = torch.ones(2, 64, device=device, dtype=dtype, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None
        norms.append(float(x.grad.norm()))
        layer.eval()
        with torch.no_grad():
            layer(torch.ones(2, 64, device=device, dtype=dtype))
    is_ok = norms[0] > 0 and norms[0] == norms[1]
    cure = None if is_ok else "bitsandbytes loses gradients after an evaluation: use the version in constraints.txt"
    detail = f"on {device}, gradient norm {norms[0]:.4g} and {norms[1]:.4g}"
    return Finding("4-bit training", State.of(is_ok), detail, cure)
