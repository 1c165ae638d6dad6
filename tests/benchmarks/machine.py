"""What a benchmark ran on, and with what: machine, versions, commit, environment."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeper import versions

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
# The same for every process that is timed. glibc gives freed memory back to the system and gets it again at every step
# otherwise, and page faults then take as long as the arithmetic, of whoever is measured.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1024**3),
    "MALLOC_MMAP_THRESHOLD_": str(1024**3),
    "MALLOC_TOP_PAD_": str(64 * 1024**2),
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_TRACKING_URI": "",
}


def environment(threads: int = 1, **more: str) -> dict[str, str]:
    """The environment of a process that is timed: this one's, with the same threads and memory for all."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("SWEEPER_", "MALLOC_", "MLFLOW_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), own.get("PYTHONPATH")]))
    return {**own, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, **more}


def described(threads: int) -> dict[str, Any]:
    """Machine, versions, commit, command and date."""
    return {
        "machine": _machine(),
        "versions": {**versions.installed(), "python": platform.python_version()},
        "commit": _git("rev-parse", "HEAD"),
        "has_uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": " ".join(["python -m tests.benchmarks.trials_per_hour", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": threads,
        "malloc": {key: value for key, value in ENVIRONMENT.items() if key.startswith("MALLOC")},
    }


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
