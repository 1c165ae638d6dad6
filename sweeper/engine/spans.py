"""Rows one behind another in one sequence, without padding, and the attention that keeps them apart.

A chunk whose rows have 17 to 90 tokens is half padding. Linears, norms and adapters look at one token at a time, so
they do without it: all tokens of a chunk stand in one row, each with its position. Attention alone must know whose
token is whose (`engine.attention`).

Rows of one slot that begin alike (with the same instruction) may share that beginning: it is computed once, and all
of them look back at it. What it gets in the backward is the sum over them, as it would be with a copy in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LIKE = 2  # rows whose attention is computed together are at the most so many times as long as one another


@dataclass(frozen=True)
class Group:
    """Rows of like length.

    Attributes:
        rows: how many.
        queries: `(rows × longest,)`, of the chunk's tokens; a shorter row repeats its last one, which nobody reads.
            None: the chunk's tokens as they stand.
        keys: likewise, with the shared beginning before them.
        shared: tokens of that.
    """

    rows: int
    queries: Tensor | None
    keys: Tensor | None
    shared: int
    _masks: dict[tuple[int, int, int | None], Tensor | None] = field(default_factory=dict, repr=False)

    def mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
        """Which keys a row's query sees, `(queries, keys)`; None where plain causal attention is that."""
        if window is not None and window >= keys:
            window = None
        if self.shared == 0 and window is None:
            return None
        key = (queries, keys, window)
        if key not in self._masks:
            ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
            mask = ones.tril(self.shared)
            self._masks[key] = mask if window is None else mask & ones.triu(self.shared - window + 1)
        return self._masks[key]

    def causal(self, queries: int, device: torch.device) -> Tensor:
        """The mask of plain causal attention."""
        key = (queries, queries, None)
        if self._masks.get(key) is None:
            self._masks[key] = torch.ones(queries, queries, dtype=torch.bool, device=device).tril()
        mask = self._masks[key]
        assert mask is not None
        return mask


@dataclass(frozen=True)
class Spans:
    """Where the rows of a chunk lie in its sequence.

    Attributes:
        positions: `(tokens,)`, of each token in its row.
        owners: `(tokens,)`, the row of each; of a shared beginning, one of those that share it.
        groups: whose attention is computed together.
        places: `(tokens,)`, where each token lies in the groups' results, one behind another; None: as it stands.
    """

    positions: Tensor
    owners: Tensor
    groups: tuple[Group, ...]
    places: Tensor | None


@dataclass(frozen=True)
class Laid:
    """Rows laid one behind another.

    Attributes:
        tokens: `(tokens,)`.
        starts: where each row's own tokens begin, after what it shares.
        shared_starts: where each row's shared beginning lies.
        counts: tokens of each slot, ascending by slot.
    """

    tokens: NDArray[np.int64]
    starts: list[int]
    shared_starts: list[int]
    counts: list[tuple[int, int]]
    spans: Spans


def lay(rows: Sequence[tuple[int, Sequence[int]]], shared: int, device: torch.device) -> Laid:
    """Lays rows, each a slot and its tokens, slot-major, one behind another.

    Args:
        shared: how many tokens all of them begin with alike; each has more than that.
    """
    tokens: list[int] = []
    positions: list[NDArray[np.int64]] = []
    owners: list[NDArray[np.int64]] = []
    starts, shared_starts = [], []
    beginnings: dict[int, int] = {}  # of the slots
    counts: dict[int, int] = {}
    for row, (slot, own) in enumerate(rows):
        if shared and slot not in beginnings:
            beginnings[slot] = len(tokens)
            tokens += own[:shared]
            positions.append(np.arange(shared))
            owners.append(np.full(shared, row))
            counts[slot] = shared
        shared_starts.append(beginnings.get(slot, 0))
        starts.append(len(tokens))
        tokens += own[shared:]
        positions.append(np.arange(shared, len(own)))
        owners.append(np.full(len(own) - shared, row))
        counts[slot] = counts.get(slot, 0) + len(own) - shared
    lengths = [len(own) - shared for _, own in rows]
    groups, places = _groups(starts, lengths, [shared_starts[row] for row in range(len(rows))], shared, device)
    if shared:
        before = sum(group.queries.numel() for group in groups if group.queries is not None)
        begun = np.array(list(beginnings.values()))[:, None] + np.arange(shared)
        index = torch.from_numpy(begun.reshape(-1)).to(device)
        groups.append(Group(len(begun), index, index, 0))
        places[begun.reshape(-1)] = before + np.arange(begun.size)
    is_as_it_stands = len(groups) == 1 and groups[0].queries is None
    spans = Spans(
        positions=torch.from_numpy(np.concatenate(positions)).to(device),
        owners=torch.from_numpy(np.concatenate(owners)).to(device),
        groups=tuple(groups),
        places=None if is_as_it_stands else torch.from_numpy(places).to(device),
    )
    return Laid(np.array(tokens), starts, shared_starts, list(counts.items()), spans)


def _groups(
    starts: Sequence[int], lengths: Sequence[int], shared_starts: Sequence[int], shared: int, device: torch.device
) -> tuple[list[Group], NDArray[np.int64]]:
    """Rows by like length, and where each of their own tokens lies in what comes of them."""
    if not shared and len(set(lengths)) == 1:
        return [Group(len(lengths), None, None, 0)], np.zeros(0, np.int64)
    places = np.zeros(sum(lengths) + shared * len(set(shared_starts)), np.int64)
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups, before = [], 0
    while order:
        longest = lengths[order[0]]
        own = [row for row in order if lengths[row] * LIKE >= longest]
        order = order[len(own) :]
        first, length = np.array([starts[row] for row in own]), np.array([lengths[row] for row in own])
        column = np.arange(longest)
        queries = first[:, None] + np.minimum(column, length[:, None] - 1)
        keys = queries
        if shared:
            beginning = np.array([shared_starts[row] for row in own])[:, None] + np.arange(shared)
            keys = np.concatenate([beginning, queries], axis=1)
        is_real = column < length[:, None]
        places[queries[is_real]] = before + np.flatnonzero(is_real.reshape(-1))
        before += queries.size
        of_queries, of_keys = (torch.from_numpy(index.reshape(-1)).to(device) for index in (queries, keys))
        groups.append(Group(len(own), of_queries, of_keys if shared else of_queries, shared))
    return groups, places
