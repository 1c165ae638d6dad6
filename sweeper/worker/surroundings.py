"""On what, with what and by whom a session's trials are trained, as tags of their runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import sweeper
from sweeper.config.schema import Config
from sweeper.units import GIB
from sweeper.worker.workbench import Workbench

_CPUINFO = Path("/proc/cpuinfo")


def tags(bench: Workbench, config: Config, attributes: Mapping[str, Any]) -> dict[str, str]:
    """Of the study's run, and of those of the trials that this session works on.

    Args:
        attributes: of the study.
    """
    found = {
        "sweeper.data_sha256": bench.data_sha256,
        "sweeper.model": config.model.name,
        "sweeper.seed": str(config.train.seed),
        "sweeper.sampler": config.sampler.name,
        "sweeper.pruner": config.pruner.name,
        "sweeper.worker": f"{socket.gethostname()}:{os.getpid()}",
        **_device(bench),
    }
    if model := attributes.get("model"):
        files = json.dumps(model.get("files", {}), sort_keys=True)
        found["sweeper.model_version"] = model.get("commit") or hashlib.sha256(files.encode()).hexdigest()
    if (commit := _commit()) is not None:
        found["mlflow.source.git.commit"] = commit
    return found


def _device(bench: Workbench) -> dict[str, str]:
    device, guard = bench.pack.stack.device, bench.pack.planner.guard
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        more = {"sweeper.cuda": str(torch.version.cuda)}
        if guard is not None and guard.backend.driver:
            more["sweeper.driver"] = guard.backend.driver
    else:
        name, more = _cpu(), {"sweeper.threads": str(torch.get_num_threads())}
    if guard is not None:
        more["sweeper.device_gib"] = f"{guard.backend.read().total_bytes / GIB:.1f}"
    return {"sweeper.device": name, "sweeper.dtype": bench.dtype, **more}


@cache
def _cpu() -> str:
    """What the processor calls itself."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


@cache
def _commit() -> str | None:
    """The commit of sweeper's own code, where it runs from a checkout."""
    root, git = Path(sweeper.__file__).resolve().parents[1], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    done = subprocess.run([git, "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
