"""Readings of the memory, against a budget: what may still be taken, and who else takes it.

What this process holds is read afresh at every chunk; what is free on the device, or on the host, is read twice a
second by a thread, since a neighbour takes it at any time and reading it costs more.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sweeper.clock import now_s
from sweeper.memory.readings import MemoryBackend, Reading
from sweeper.units import GIB, MIB

PRESSURE_LASTS_S = 2.0  # a neighbour that has just left is why something failed just before
PRESSURE_BYTES = 64 * MIB  # what others may take more than at the start without being to blame
HISTORY = 20  # readings that are kept to explain a prune: ten seconds of them


@dataclass(frozen=True)
class Moment:
    """A reading and when it was taken."""

    at_s: float  # since 1970
    reading: Reading

    def as_dict(self) -> dict[str, float]:
        reading = self.reading
        return {
            "time_s": round(self.at_s, 3),
            "own_gib": reading.own_bytes / GIB,
            "peak_gib": reading.peak_bytes / GIB,
            "free_gib": reading.free_bytes / GIB,
            "cached_gib": reading.cached_bytes / GIB,
            "total_gib": reading.total_bytes / GIB,
        }


class Guard:
    """One device's memory, and how much of it is for us.

    Args:
        budget_gib: the most that this process may hold; None: what the device has, less the reserve.
        reserve_gib: stays free on the device, for fragments and for neighbours that grow.
        watch_s: seconds between two readings of the watcher; 0: no watcher, every reading is fresh.
    """

    def __init__(
        self, backend: MemoryBackend, budget_gib: float | None = None, reserve_gib: float = 0.0, watch_s: float = 0.0
    ) -> None:
        self.backend = backend
        self.runtime_bytes = backend.runtime_bytes()
        self.reserve_bytes = int(reserve_gib * GIB)
        self._limit_bytes = int(budget_gib * GIB) if budget_gib is not None else None
        self._watch_s = watch_s
        self.history: deque[Moment] = deque(maxlen=HISTORY)
        self._reachable_at_first = self._reachable(self._read())

    def budget_bytes(self) -> int:
        """The most that this process may hold, if nobody else held anything."""
        total = max(0, self._latest().reading.total_bytes - self.reserve_bytes)
        return total if self._limit_bytes is None else min(total, self._limit_bytes)

    def own_bytes(self) -> int:
        """What this process holds now, with what it holds beside tensors."""
        return self.backend.own_bytes() + self._beside()

    def peak_bytes(self) -> int:
        """The most that it held since the backend's `reset_peak`."""
        return self.backend.read().peak_bytes + self._beside()

    @property
    def base_bytes(self) -> int:
        """What this process holds with no model: beside tensors, and what libraries keep of the allocator's memory."""
        return self.runtime_bytes + self.backend.workspace_bytes

    def measure_runtime(self) -> None:
        """Takes the runtime again once there has been work: a driver loads a kernel's code when it is first used.

        It stays as it was where a neighbour is there whose memory the driver does not say: that would count as ours.
        """
        is_known = all(holder.used_bytes is not None for holder in self.backend.holders())
        if is_known and not self.backend.counts_runtime:
            self.runtime_bytes = max(self.runtime_bytes, self.backend.runtime_bytes())

    def _beside(self) -> int:
        return 0 if self.backend.counts_runtime else self.runtime_bytes

    def room_bytes(self) -> int:
        """What this process may still take: within its budget, and within what the device has free."""
        own = self.backend.own_bytes()
        latest = self._latest().reading
        # The free memory is of the latest reading: what this process took or freed since then changes it. A reading
        # in the middle of a step would otherwise keep trials out that fit between two steps.
        available = latest.available_bytes - (own - latest.own_bytes) - self.reserve_bytes
        return max(0, min(self.budget_bytes() - own - self._beside(), available))

    def is_pressed(self) -> bool:
        """Whether it is a neighbour that keeps this process from its budget."""
        return self._is_pressing(self._read())

    def was_pressed(self) -> bool:
        """Whether one does, or did a moment ago."""
        if self.is_pressed():
            return True
        since_s = now_s() - max(PRESSURE_LASTS_S, 2 * self._watch_s)
        return any(moment.at_s >= since_s and self._is_pressing(moment.reading) for moment in list(self.history))

    def _is_pressing(self, reading: Reading) -> bool:
        # Who was there from the start is no news: what is out of reach because of it never was within.
        return self._reachable(reading) < min(self.budget_bytes(), self._reachable_at_first) - PRESSURE_BYTES

    def _reachable(self, reading: Reading) -> int:
        """The most that this process could hold, with what others hold now."""
        return reading.own_bytes + self._beside() + reading.available_bytes - self.reserve_bytes

    def describe(self) -> str:
        """The memory in words, for an error or a prune's reason."""
        reading = self._read()
        own, budget = reading.own_bytes + self._beside(), self.budget_bytes()
        words = (
            f"this process holds {own / GIB:.3g} GiB of its budget of {budget / GIB:.3g} GiB; "
            f"{reading.free_bytes / GIB:.3g} of {reading.total_bytes / GIB:.3g} GiB are free ({self.backend.name})"
        )
        others = ", ".join(
            f"{holder.name} (pid {holder.pid}"
            + (f", {holder.used_bytes / GIB:.3g} GiB)" if holder.used_bytes is not None else ")")
            for holder in self.backend.holders()
        )
        return f"{words}; others on it: {others}" if others else words

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within this context a thread reads the memory every `watch_s`."""
        if not self._watch_s:
            yield
            return
        stopping = threading.Event()

        def watch() -> None:
            while not stopping.wait(self._watch_s):
                self._read()

        thread = threading.Thread(target=watch, name="memory-watcher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def _latest(self) -> Moment:
        if not self._watch_s or now_s() - self.history[-1].at_s > 2 * self._watch_s:
            self._read()
        return self.history[-1]

    def _read(self) -> Reading:
        reading = self.backend.read()
        self.history.append(Moment(now_s(), reading))
        return reading
