"""Nested parts of the training rows: the smaller one is in the larger one, and each is as the whole is."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence


def nested(kinds: Sequence[Hashable], counts: Sequence[int], seed: int) -> list[tuple[int, ...]]:
    """The places of `counts` rows for each count, every smaller set within the larger ones.

    Args:
        kinds: of each row what is to keep its share in every set, such as its label; where all differ, rows are drawn.
    """
    draw = random.Random(seed)
    by_kind: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(place)
    ranked = []
    for places in by_kind.values():
        draw.shuffle(places)
        # Evenly spread over the order, from a begin of its own: any prefix has of each kind its share, to a row.
        begin = draw.random()
        ranked += [((rank + begin) / len(places), place) for rank, place in enumerate(places)]
    order = [place for _, place in sorted(ranked)]
    return [tuple(sorted(order[:count])) for count in counts]
