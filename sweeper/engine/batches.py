"""Which examples a trial sees when, and how a tick's rows are cut into chunks.

The order depends on the seed and the epoch alone, so every trial of a study sees the same examples
in the same order, and a trial that is resumed goes on where it was.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sweeper.data.example import Example
from sweeper.engine.spans import Spans, lay
from sweeper.trial import Rhythm

LEAST_SAVED = 0.1  # of a chunk's tokens, for a shared beginning to pay: it costs another group of rows


@lru_cache(maxsize=16)
def _order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(int(row) for row in np.random.default_rng((seed, epoch)).permutation(rows))


def batch_rows(rhythm: Rhythm, step: int, rows: int, seed: int) -> list[int]:
    """The rows of the batch after `step` optimizer steps, out of `rows`, epoch after epoch."""
    seen = range(rhythm.examples_at(step), rhythm.examples_at(step + 1))
    return [_row(position, rows, seed) for position in seen]


def replayed_rows(rhythm: Rhythm, step: int, rows: int, seed: int, share: float) -> list[tuple[int, int]]:
    """The passages that come on top of that batch, out of `rows`, so that they are `share` of what is read.

    Counted from the trial's beginning, so that a share of less than one passage for a batch is not lost.

    Returns:
        The position of each in the trial's passages, epoch after epoch, and its row.
    """
    before, after = (_replayed(rhythm.examples_at(at), share) for at in (step, step + 1))
    return [(position, _row(position, rows, seed)) for position in range(before, after)]


def _replayed(examples: int, share: float) -> int:
    """How many passages have been read beside so many examples."""
    return math.floor(examples * share / (1 - share) + 1e-9)  # or a third of three could be less than one


def _row(position: int, rows: int, seed: int) -> int:
    return _order(rows, seed, position // rows)[position % rows]


@dataclass(frozen=True)
class Item:
    """One sequence of one slot."""

    slot: int
    tokens: tuple[int, ...]
    key: int = 0  # the caller's: which row this is
    position: int = 0  # of the example in the slot's data, epoch after epoch


@dataclass(frozen=True)
class Chunk:
    """What goes through the model in one forward: items slot-major.

    Attributes:
        tokens: `(rows, seq)`, padded to the longest; or `(1, tokens)`, one row behind another.
        attention_mask: `(rows, seq)`; None where there is no padding.
        rows: the slots in it, ascending, with how many rows of each the layers get; each token of `(1, tokens)` is one.
        starts: where each item's first token of its own lies in the flattened `tokens`.
        shared: how many tokens the items begin with that stand in there once for each slot.
        shared_starts: where those lie, by item.
        spans: whose token is whose, where rows stand one behind another.
    """

    items: list[Item]
    tokens: Tensor
    attention_mask: Tensor | None
    rows: list[tuple[int, int]]
    starts: list[int]
    shared: int = 0
    shared_starts: list[int] = field(default_factory=list)
    spans: Spans | None = None

    def place(self, item: int, token: int) -> int:
        """Where a token of an item lies in the flattened `tokens`."""
        if token < self.shared:
            return self.shared_starts[item] + token
        return self.starts[item] + token - self.shared


def by_length(items: Sequence[Item]) -> list[Item]:
    """The longest first, in the order of the items where they are alike: neighbours then pad each other little.

    Those of like length share a chunk, whatever their slot. The cut changes no result: losses are sums over rows.
    """
    return sorted(items, key=lambda item: -len(item.tokens))


def new_chunk(group: Sequence[Item], pad: int, device: torch.device, is_left: bool = False) -> Chunk:
    """Items as one chunk, padded to the longest, on the right or on the left."""
    items = _ordered(group)
    longest = max(len(item.tokens) for item in items)
    tokens = np.full((len(items), longest), pad, np.int64)
    mask = np.zeros((len(items), longest), np.int64)
    starts = []
    for row, item in enumerate(items):
        start = longest - len(item.tokens) if is_left else 0
        tokens[row, start : start + len(item.tokens)] = item.tokens
        mask[row, start : start + len(item.tokens)] = 1
        starts.append(row * longest + start)
    rows = sorted(Counter(item.slot for item in items).items())
    return Chunk(items, torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device), rows, starts)


def unpadded_chunk(group: Sequence[Item], device: torch.device, may_share: bool = True) -> Chunk:
    """Items as one chunk without padding.

    Args:
        may_share: whether what all of them begin with may be computed once for each slot.
    """
    items = _ordered(group)
    shared = shared_tokens(items) if may_share else 0
    laid = lay([(item.slot, item.tokens) for item in items], shared, device)
    tokens = torch.from_numpy(laid.tokens).to(device)[None]
    return Chunk(items, tokens, None, laid.counts, laid.starts, shared, laid.shared_starts, laid.spans)


def shared_tokens(items: Sequence[Item]) -> int:
    """How many tokens all items begin with alike; 0 where it would not pay to compute them once for each slot."""
    first, last = min(item.tokens for item in items), max(item.tokens for item in items)
    most = min(len(item.tokens) for item in items) - 1  # each keeps one of its own
    shared = next((place for place in range(most) if first[place] != last[place]), most)
    saved = shared * (len(items) - len({item.slot for item in items}))
    return shared if saved > LEAST_SAVED * sum(len(item.tokens) for item in items) else 0


def _ordered(group: Sequence[Item]) -> list[Item]:
    return sorted(group, key=lambda item: (item.slot, item.key))


@dataclass(frozen=True)
class Supervised:
    """Where the loss is: positions whose *next* token is supervised."""

    places: Tensor  # (n,), in the flattened tokens of the chunk
    targets: Tensor  # (n,)
    slots: Tensor  # (n,), of the stack
    weights: Tensor | None  # (n,) of the loss; None where all are 1


def supervised(chunk: Chunk, examples: Sequence[Example]) -> Supervised:
    """The supervised positions of a chunk; `examples` are those of its items, in their order."""
    places, targets, slots, weights = [], [], [], []
    for row, (item, example) in enumerate(zip(chunk.items, examples, strict=True)):
        for place in example.supervised:
            places.append(chunk.place(row, len(example.prompt) + place - 1))
            targets.append(example.answer[place])
            slots.append(item.slot)
            weights.append(example.weight)
    device = chunk.tokens.device
    is_weighted = any(weight != 1.0 for weight in weights)
    return Supervised(
        places=torch.tensor(places, device=device),
        targets=torch.tensor(targets, device=device),
        slots=torch.tensor(slots, device=device),
        weights=torch.tensor(weights, device=device, dtype=torch.float64) if is_weighted else None,
    )
