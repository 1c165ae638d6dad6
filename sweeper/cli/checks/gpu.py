"""The GPU: whether there is one that torch can use, and if not, which piece between the two is missing."""

from __future__ import annotations

import os
import platform
import warnings
from pathlib import Path

from sweeper.cli.checks.system import is_wsl
from sweeper.cli.finding import Finding, State
from sweeper.memory import nvml
from sweeper.memory.nvml import Driver, NvmlUnavailable
from sweeper.units import GIB

# The oldest driver for each CUDA. From CUDA 11 on, any driver of the same major version will do, and any newer one
# (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
TORCH = "torch>=2.11"  # as pyproject.toml has it
BFLOAT16 = (8, 0)  # the first compute capability that computes in it
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")  # files that Docker and Podman put there
_CUDA_13 = (7, 5)  # the first that CUDA 13 has kernels for
_BLACKWELL = (10, 0)  # the first that CUDA 12.6 has none for
ON_CPU = (
    "Without one nothing is to be set: searches run on the CPU; gpu=cpu or gpu=free says what its hours cost, "
    "`sweeper plan study=demo gpu=rtx-4090` foresees a card"
)


def gpu() -> Finding:
    """The cards, and whether torch computes on them."""
    import torch

    trouble = _trouble()
    try:
        found = nvml.driver()
    except NvmlUnavailable as error:
        return _without_nvml(error, trouble)
    names = ", ".join(f"{one.card.name} ({one.card.total_bytes / GIB:.1f} GiB)" for one in found.cards)
    what = f"{names or 'none'}; driver {found.version}"
    if trouble is None:
        return Finding("gpu", State.OK, f"{what}{_precision()}")
    if not found.cards:
        return Finding(
            "gpu",
            State.NOTE,
            f"{what} is loaded, but has no card to give",
            f"{_container_cure() or 'nvidia-smi -L lists cards'}. {ON_CPU}",
        )
    if torch.version.cuda is None:
        detail = f"{what}; torch {torch.__version__} is a build without CUDA, so that searches run on the CPU, slower"
        return Finding("gpu", State.WARNING, detail, torch_command(found) or _newer_driver(12))
    if (hidden := _hidden(found)) is not None:
        return Finding("gpu", State.WARNING, f"{what}; {hidden}, so that searches run on the CPU", _show_command(found))
    if found.cuda[0] < _major(torch.version.cuda):
        return Finding(
            "gpu", State.WARNING, f"{what}, which is too old for torch; searches run on the CPU", "see driver"
        )
    cure = (
        "after a suspended session: sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm; after an update: restart the "
        "machine; in a container: it needs /dev/nvidia-uvm too, which docker run --gpus all brings"
    )
    detail = f"{what}; torch {torch.__version__} sees none of it, and searches run on the CPU{trouble}"
    return Finding("gpu", State.WARNING, detail, cure)


def driver() -> Finding | None:
    """Whether the driver knows the CUDA that torch is built for."""
    import torch

    found = _driver()
    if found is None or not found.cards or torch.version.cuda is None:
        return None
    have, wanted = ".".join(map(str, found.cuda)), torch.version.cuda
    detail = f"{found.version} knows CUDA up to {have}; torch is built for {wanted}"
    if found.cuda[0] >= _major(wanted):
        is_older = found.cuda < tuple(map(int, wanted.split(".")[:2]))
        return Finding("driver", State.OK, f"{detail}{', which will do within a major version' if is_older else ''}")
    if _trouble() is None:
        return Finding("driver", State.OK, f"{detail}, and works by CUDA's package for forward compatibility")
    cure = _newer_driver(_major(wanted))
    if (command := torch_command(found)) is not None:
        cure += f"; or a torch for the driver that there is: {command}"
    return Finding("driver", State.WARNING, f"{detail}: it is too old", cure)


def compute_capability() -> Finding | None:
    """Whether torch has kernels for each card, and whether it has bfloat16."""
    import torch

    if _trouble() is not None:
        return None
    kernels = torch.cuda.get_arch_list()
    cards = {
        torch.cuda.get_device_name(index): torch.cuda.get_device_capability(index)
        for index in range(torch.cuda.device_count())
    }
    words = {name: f"{name} has {major}.{minor}" for name, (major, minor) in cards.items()}
    lacking = [name for name, of in cards.items() if not _has_kernels(kernels, of)]
    if lacking:
        found = _driver()
        command = torch_command(found) if found is not None else None
        detail = f"torch {torch.__version__} has kernels for {', '.join(kernels)}, but {words[lacking[0]]}"
        cure = f"{command or f'pip install -U {TORCH!r}'}; or engine.device=cpu"
        return Finding("compute capability", State.MISSING, detail, cure)
    early = [name for name, of in cards.items() if of < BFLOAT16]
    if not early:
        return None
    detail = (
        f"{words[early[0]]}, and bfloat16 begins with 8.0: model.dtype=auto computes in float16 there, with a loss "
        "scale for each trial"
    )
    return Finding("compute capability", State.NOTE, detail)


def mig() -> Finding | None:
    """A card that is cut into MIG instances: whether one of them is named, and what is read of it."""
    found = _driver()
    cut = [one for one in found.cards if one.instances is not None] if found is not None else []
    if not cut:
        return None
    name, seen = cut[0].card.name, [uuid for one in cut for uuid in one.instances or ()]
    listed = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if any(one.startswith("MIG-") for one in listed):
        detail = (
            "CUDA_VISIBLE_DEVICES names instances, and each gets a worker. That may hold what the instance has. "
            f"Its electricity is not measured, and a price that `gpu` names is that of a whole {name}"
        )
        return Finding("mig", State.NOTE, detail, "gpu.price_usd_per_hour=ITS_SHARE, and gpu.watts=N where it is owned")
    if not seen:
        cure = f"sudo nvidia-smi mig -i {cut[0].card.index} -lgip lists what can be made, -cgi ID -C makes one"
        detail = f"{name} is in MIG mode, and has no instance that can be seen here: CUDA has no device then"
        return Finding(
            "mig", State.WARNING, detail, f"{cure}; sudo nvidia-smi -i {cut[0].card.index} -mig 0 ends the mode"
        )
    detail = (
        f"{name} is in MIG mode, and CUDA_VISIBLE_DEVICES names no instance: a launch starts one worker for the card, "
        "on the instance that CUDA picks if it picks any, and `sweeper plan` counts with the memory of the whole card"
    )
    return Finding("mig", State.WARNING, detail, f"export CUDA_VISIBLE_DEVICES={','.join(seen)} (a worker for each)")


def torch_command(found: Driver) -> str | None:
    """What installs a torch that runs with this driver on its cards; None: the driver is too old for any."""
    known = [one.capability for one in found.cards if one.capability is not None]
    if found.cuda[0] < 12:
        return None
    if known and min(known) < _CUDA_13:
        index = "cu126"
    elif found.cuda[0] >= 13:
        index = "cu130"
    else:
        index = "cu128" if known and max(known) >= _BLACKWELL else "cu126"
    # pip would take the torch that is there for good enough.
    return f"pip uninstall -y torch && pip install '{TORCH}' --index-url https://download.pytorch.org/whl/{index}"


def _driver() -> Driver | None:
    try:
        return nvml.driver()
    except NvmlUnavailable:  # `gpu` says so
        return None


def _trouble() -> str | None:
    """None where torch has a CUDA device; otherwise what it says about that, which may be nothing."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    if is_available:
        return None
    return f": {str(said[0].message).partition('(Triggered')[0].strip()}" if said else ""


def _without_nvml(error: NvmlUnavailable, trouble: str | None) -> Finding:
    import torch

    if trouble is None:
        detail = (
            f"{torch.cuda.get_device_name(0)}{_precision()}. NVML is not used, so that other processes on it are not "
            f"named, and its electricity is not measured: {error}"
        )
        return Finding("gpu", State.NOTE, detail, "pip install nvidia-ml-py" if not error.error else None)
    if error.error == nvml.NO_LIBRARY:
        return Finding("gpu", State.NOTE, f"none: {error}; searches run on the CPU, slower", f"{_install()}. {ON_CPU}")
    cure = {
        "": "pip install nvidia-ml-py",
        "NVMLError_DriverNotLoaded": "sudo modprobe nvidia; after a new kernel or driver: restart the machine",
        "NVMLError_NoPermission": "ls -l /dev/nvidia* shows whose they are; often: sudo usermod -aG video,render $USER",
        "NVMLError_LibRmVersionMismatch": "restart the machine",
        "NVMLError_GpuIsLost": "restart the machine",
    }.get(error.error, "nvidia-smi says more")
    return Finding("gpu", State.WARNING, f"none that can be used: {error}; searches run on the CPU, slower", cure)


def _install() -> str:
    """How a machine gets the driver that it does not have."""
    if platform.system() == "Darwin":
        return "CUDA needs Linux, or Windows with WSL 2"
    if is_wsl():
        return "with an NVIDIA card: install its driver in Windows, not here"
    here = "sudo ubuntu-drivers install (Debian: sudo apt install nvidia-driver), and restart"
    return f"with an NVIDIA card: {_container_cure() or here}"


def _container_cure() -> str:
    inside = any(Path(mark).exists() for mark in CONTAINER_MARKS)
    return "start this container with docker run --gpus all (nvidia-container-toolkit on the host)" if inside else ""


def _newer_driver(major: int) -> str:
    oldest = OLDEST_DRIVER.get(major)
    which = f"{oldest} or newer" if oldest is not None else f"one for CUDA {major}"
    how = "in Windows" if is_wsl() else "sudo ubuntu-drivers install, or https://www.nvidia.com/drivers"
    return f"update the NVIDIA driver to {which} ({how})"


def _hidden(found: Driver) -> str | None:
    """How CUDA_VISIBLE_DEVICES keeps every card from CUDA, where it does: that reads it up to what it does not know."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return None
    first = listed.split(",")[0].strip()
    if first in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={listed!r} hides every card"
    names = [uuid for one in found.cards for uuid in (one.card.uuid, *(one.instances or ()))]
    is_known = int(first) < len(found.cards) if first.isdecimal() else any(name.startswith(first) for name in names)
    return None if is_known else f"CUDA_VISIBLE_DEVICES={listed!r} begins with a card that there is not"


def _show_command(found: Driver) -> str:
    return f"unset CUDA_VISIBLE_DEVICES, or export CUDA_VISIBLE_DEVICES={found.cards[0].card.index}"


def _major(cuda: str) -> int:
    return int(cuda.split(".")[0])


def _has_kernels(kernels: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for `kernels` runs on a card: binaries within their major version, PTX on all that came later."""
    for kernel in kernels:
        kind, _, number = kernel.partition("_")
        if not number.isdecimal():  # such as sm_90a: for this card alone
            continue
        of = divmod(int(number), 10)
        if of <= capability and (kind == "compute" or of[0] == capability[0]):
            return True
    return not kernels  # a build that does not say


def _precision() -> str:
    """What `model.dtype=auto` is on the first card."""
    import torch

    from sweeper.models.base import best_dtype

    dtype = best_dtype(torch.device("cuda:0"))
    why = " with a loss scale for each trial, as it has no bfloat16" if dtype is torch.float16 else ""
    return f"; computes in {str(dtype).removeprefix('torch.')}{why}"
