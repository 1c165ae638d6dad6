"""The system: WSL, which hides some of the GPU, and a compiler, which few need."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
from pathlib import Path

from sweeper.cli.finding import Finding, State
from sweeper.units import GIB

WSL_LIBRARIES = Path("/usr/lib/wsl/lib")  # where Windows' driver puts libcuda.so.1 and libnvidia-ml.so.1
_PAGED_GIB = 2.0  # left to Windows' desktop, so that its driver moves nothing to host memory
COMPILERS = ("gcc", "cc", "clang")


def is_wsl() -> bool:
    return "microsoft" in platform.release().lower()


def wsl() -> Finding | None:
    """Windows Subsystem for Linux: what is missing there, or read differently."""
    if not is_wsl():
        return None
    import torch

    if "wsl2" not in platform.release().lower() and platform.release().endswith("-Microsoft"):
        return Finding("wsl", State.WARNING, "WSL 1 has no GPU", "in Windows: wsl --set-version DISTRIBUTION 2")
    if not (WSL_LIBRARIES / "libcuda.so.1").exists():
        cure = "install NVIDIA's driver in Windows, none in here, and then, in Windows: wsl --shutdown"
        return Finding("wsl", State.NOTE, f"WSL 2 without a GPU: {WSL_LIBRARIES} has no libcuda.so.1", cure)
    if not torch.cuda.is_available():
        cure = f"export LD_LIBRARY_PATH={WSL_LIBRARIES}:$LD_LIBRARY_PATH, unless the lines above name another cause"
        return Finding("wsl", State.WARNING, f"WSL 2 has the driver in {WSL_LIBRARIES}, and torch no device", cure)
    total_gib = torch.cuda.get_device_properties(0).total_memory / GIB
    detail = (
        "WSL 2: NVML does not say which other processes hold how much of the card, and Windows may move what does not "
        "fit to host memory: a study would become many times slower, where elsewhere it makes room"
    )
    cure = (
        f"memory.budget_gib={max(1.0, total_gib - _PAGED_GIB):.1f}, which torch keeps to; and in Windows' NVIDIA "
        "Control Panel, Manage 3D settings: CUDA - Sysmem Fallback Policy = Prefer No Sysmem Fallback, which not every "
        "WSL heeds"
    )
    return Finding("wsl", State.NOTE, detail, cure)


def compiler() -> Finding | None:
    """A C compiler, on CUDA: no search needs one, but Triton does, for what others compile at first use."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = os.environ.get("CC") or next((name for name in COMPILERS if shutil.which(name)), None)
    lost = (
        "searches compile nothing; vLLM (`sweeper serve`) and models whose code has Triton kernels do, and would fail"
    )
    if found is None:
        detail = f"none of {', '.join(COMPILERS)} is on PATH: {lost}"
        return Finding("c compiler", State.WARNING, detail, "sudo apt-get install build-essential python3-dev")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        detail = f"{found}, but Python's headers are not here (Python.h): {lost}"
        return Finding("c compiler", State.WARNING, detail, "sudo apt-get install python3-dev")
    return Finding("c compiler", State.OK, found)
