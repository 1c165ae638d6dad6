"""How far a score may be off, for the rows or items that it was measured on being a sample. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

ERROR_DRAWS = 400  # of a bootstrap: the standard error is then known to 4 %


def share_error(share: float, count: int) -> float:
    """The standard error of a share of hits among `count`.

    That of Agresti and Coull (The American Statistician 52, 1998): the binomial one with two hits and two misses added,
    which is not zero where all are hits.
    """
    adjusted = (share * count + 2) / (count + 4)
    return math.sqrt(adjusted * (1 - adjusted) / (count + 4))


def mean_error(values: Sequence[float]) -> float:
    """The standard error of a mean over rows, with two that are right and two that are wrong added."""
    adjusted = [*values, 0.0, 0.0, 1.0, 1.0]
    mean = math.fsum(adjusted) / len(adjusted)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in adjusted)) / len(adjusted)
