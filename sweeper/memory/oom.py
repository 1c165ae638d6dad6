"""What an out-of-memory error is, and how the memory that it left behind comes back."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

Result = TypeVar("Result")
# Messages of errors that torch raises as plain RuntimeErrors. cuBLAS and cuDNN take their workspaces past the
# caching allocator, and the driver's own words reach us where a launch fails.
_MESSAGES = re.compile(
    r"out of memory"  # CUDA error: out of memory; CUDA out of memory; HIP out of memory
    r"|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED"
    r"|(DefaultCPUAllocator|alloc_cpu).*(can't allocate memory|not enough memory)"
    r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY",
    re.IGNORECASE | re.DOTALL,
)
_TRIES, _PAUSE_S = 5, 0.2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left, in whatever words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_MESSAGES.search(str(error)))


@dataclass(frozen=True)
class Failure:
    """Memory ran out."""

    message: str


def attempted(work: Callable[[], Result]) -> Result | Failure:
    """What `work` returns, or that memory ran out in it.

    The error is gone when this returns, and with it the frames that hold what is to be freed.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return Failure(str(error).partition("\n")[0] or type(error).__name__)


def free_caches() -> None:
    """Gives back what nothing uses: garbage, the allocator's cached blocks, the C library's free heap.

    Of no use in an `except` block that has caught what ran out: the exception's frames hold tensors.
    """
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)


def patiently(make: Callable[[], Result]) -> Result:
    """Calls `make` again where memory runs out; a neighbour's peak may pass.

    Raises:
        The last error, after some tries.
    """
    for _ in range(_TRIES - 1):
        result = attempted(make)
        if not isinstance(result, Failure):
            return result
        free_caches()
        time.sleep(_PAUSE_S)
    return make()
