from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from sweeper.memory.heap import keep_freed_memory
from sweeper.memory.oom import free_caches
import psutil

if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)  # 64 MiB
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = psutil.Process().memory_info().rss
free_caches()
print(faults, held - psutil.Process().memory_info().rss)
"""


def run(word: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
    faults, freed = done.stdout.split()
    return int(faults), int(freed)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_pages_are_found_once_and_given_back_when_asked_for() -> None:
    faults, freed = run("kept")
    assert faults < run("plain")[0] / 2
    assert freed > 32 * 2**20
