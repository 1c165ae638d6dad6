"""How far a score may be off, for the rows or items that it was measured on being a sample. Pure."""

from __future__ import annotations

import math


def share_error(share: float, count: int) -> float:
    """The standard error of a share of hits among `count`.

    That of Agresti and Coull (The American Statistician 52, 1998): the binomial one with two hits and two misses added,
    which is not zero where all are hits.
    """
    adjusted = (share * count + 2) / (count + 4)
    return math.sqrt(adjusted * (1 - adjusted) / (count + 4))
