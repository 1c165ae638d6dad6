"""How the C library keeps what tensors on a CPU leave behind."""

from __future__ import annotations

import ctypes
import sys

from sweeper.units import MIB

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
KEPT_BYTES = 2**31 - 1  # the most that an int holds
TOP_PAD_BYTES = 64 * MIB


def keep_freed_memory() -> bool:
    """Makes malloc keep large blocks that are freed, for the next tensor of that size.

    By default it takes each block above 32 MiB (at first 128 KiB) from the kernel and gives it back, so that every
    step pays for the pages again, which the kernel must find and clear. `free_caches` still gives them back.

    Returns:
        False where the C library is not glibc, or takes no such value.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # The others alone would make things worse: they end malloc's own adjustment of the first.
    if not mallopt(_MMAP_THRESHOLD, KEPT_BYTES):
        return False
    mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_TOP_PAD, TOP_PAD_BYTES)
    return True
