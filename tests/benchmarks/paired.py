"""Medians, and the ratio of two series that were measured in turn, with its interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any

DRAWS = 2000


def ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """The ratio of the medians of samples that belong together by their place, and its 95 % interval.

    The interval is the percentile bootstrap's over the pairs: what disturbs the machine for a while disturbs both.
    """
    pairs = list(zip(above, below, strict=True))
    generator = random.Random(seed)
    drawn = sorted(_of(generator.choices(pairs, k=len(pairs))) for _ in range(DRAWS))
    return {
        "ratio": _of(pairs),
        "low": drawn[round(0.025 * (DRAWS - 1))],
        "high": drawn[round(0.975 * (DRAWS - 1))],
        "pairs": len(pairs),
    }


def _of(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(one for one, _ in pairs) / statistics.median(other for _, other in pairs)


def mean_difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The mean of paired differences and its standard error."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    is_enough = len(differences) > 1
    return {
        "mean": statistics.fmean(differences) if differences else None,
        "standard_error": statistics.stdev(differences) / len(differences) ** 0.5 if is_enough else None,
        "pairs": len(differences),
    }
