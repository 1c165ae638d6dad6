"""Counts the bytes of the tensors that are alive, operation by operation.

The same counter serves three: fake tensors in the trace of a step that never runs, a byte budget on a CPU, where no
allocator keeps statistics, and the tests, which let an allocation fail.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sweeper.units import MIB

BLOCK_BYTES = 512  # what CUDA's caching allocator rounds up to
_GEMM_4BIT = torch.ops.bitsandbytes.gemm_4bit.default
_DEQUANTISATION = (torch.ops.bitsandbytes.dequantize_4bit.default, torch.ops.bitsandbytes.dequantize_blockwise.default)
DEQUANTISATION = "dequantisation"


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, every storage that an operation makes is counted until it is gone.

    Args:
        limit_bytes: an operation whose storage would pass it raises torch.OutOfMemoryError, as a device does.
        on_allocation: called with the bytes of each new storage before it is counted; what it raises reaches whoever
            called the operation. The storage is freed, as after an allocation that failed.
        keeps_kinds: whether `at_peak` is kept.

    Attributes:
        live_bytes: of all storages.
        peak_bytes: the most since the last `reset_peak`.
        kind: what new storages are counted as.
        at_peak: the live bytes at the peak, by kind.
    """

    def __init__(
        self,
        limit_bytes: int | None = None,
        on_allocation: Callable[[int], None] | None = None,
        keeps_kinds: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self.kind = "other"
        self.at_peak: Mapping[str, int] = {}
        self._on_allocation = on_allocation
        self._limit_bytes = limit_bytes
        self._keeps_kinds = keeps_kinds
        self._by_kind: Counter[str] = Counter()
        self._seen: dict[int, tuple[int, str]] = {}
        self._lock = threading.RLock()  # autograd runs backward operations of a device in a thread of its own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _GEMM_4BIT:  # opened up, or its scratch would not be seen
            with self:
                return _gemm_4bit_default_impl(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        kind = DEQUANTISATION if func in _DEQUANTISATION else self.kind
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf, kind, given=(args, kwargs))
        return out

    def add(self, tensors: Iterable[Tensor], kind: str | None = None) -> None:
        """Counts tensors that were there before."""
        for tensor in tensors:
            self._add(tensor, kind or self.kind)

    def reset_peak(self) -> None:
        with self._lock:
            self.peak_bytes = self.live_bytes
            self.at_peak = dict(self._by_kind) if self._keeps_kinds else {}

    @contextmanager
    def counted_as(self, kind: str) -> Iterator[None]:
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def _add(self, tensor: Tensor, kind: str, given: Any = None) -> None:
        """Counts a tensor that has not been counted yet.

        Args:
            given: to the operation that returned it: one that works in place allocates nothing.
        """
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
        if size == 0:
            return
        may_fail = self._on_allocation is not None or self._limit_bytes is not None
        is_new = may_fail and given is not None and not _holds(given, key)
        if is_new and self._on_allocation is not None:
            self._on_allocation(size)
        if is_new and self._limit_bytes is not None and self.live_bytes + size > self._limit_bytes:
            raise torch.OutOfMemoryError(
                f"out of memory: {size / MIB:.1f} MiB were asked for, and tensors hold {self.live_bytes / MIB:.1f} MiB "
                f"of the {self._limit_bytes / MIB:.1f} MiB that they may"
            )
        with self._lock:
            self._seen[key] = (size, kind)
            self.live_bytes += size
            self._by_kind[kind] += size
            if self.live_bytes > self.peak_bytes:
                self.peak_bytes = self.live_bytes
                if self._keeps_kinds:
                    self.at_peak = dict(self._by_kind)
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        with self._lock:
            size, kind = self._seen.pop(key)
            self.live_bytes -= size
            self._by_kind[kind] -= size


def _holds(given: Any, key: int) -> bool:
    """Whether a tensor among the arguments has this storage."""
    return any(isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata == key for leaf in tree_leaves(given))
