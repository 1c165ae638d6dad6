"""The time of day by a clock that nobody sets while a process runs: spans between two readings are what has passed."""

from __future__ import annotations

import time

_BEGAN_S = time.time() - time.monotonic()


def now_s() -> float:
    """Seconds since 1970, by the machine's clock as it was when this process began and evenly since then."""
    return _BEGAN_S + time.monotonic()
