"""How likely the model itself holds what it chooses or writes: beside each answer, without another forward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from transformers import LogitsProcessor

from sweeper.engine.batches import Chunk
from sweeper.engine.head import Head


class Choice(NamedTuple):
    """A token out of those that were allowed, and the logarithm of its probability among them."""

    token: int
    log_probability: float


class Weighed(NamedTuple):
    """The likeliest of the tokens that were allowed, and the log-probability of each among them, in their order."""

    token: int
    log_probabilities: tuple[float, ...]


class Written(NamedTuple):
    """A continuation, and the mean logarithm of its tokens' probabilities, that which ended it included."""

    tokens: tuple[int, ...]
    log_probability: float


def of_endings(head: Head, chunk: Chunk, starts: Sequence[int]) -> list[float]:
    """The log-probability of each row's tokens from a place on, given those before it.

    Args:
        starts: of each row; at least 1, for nothing is before the first token.
    """
    device = chunk.tokens.device
    hidden = head.hidden(chunk)
    spans = [(row, starts[row], len(item.tokens)) for row, item in enumerate(chunk.items)]
    tokens = [(row, token) for row, start, end in spans for token in range(start, end)]
    rows = torch.tensor([row for row, _ in tokens], device=device)
    places = torch.tensor([chunk.place(row, token - 1) for row, token in tokens], device=device)
    targets = torch.tensor([chunk.items[row].tokens[token] for row, token in tokens], device=device)
    sums = torch.zeros(len(spans), dtype=torch.float64, device=device)
    # As many positions at a time as there are rows: the logits then take no more than where rows are scored by their
    # last position, which is what is known of the memory.
    parts = (torch.split(each, len(spans)) for each in (rows, places, targets))
    for row, place, target in zip(*parts, strict=True):
        logits = head.logits(hidden[place])
        chosen = logits.gather(1, target[:, None])[:, 0]
        sums.index_add_(0, row, (chosen - logits.logsumexp(1)).double())
    return [float(value) for value in sums.tolist()]


class Likelihoods(LogitsProcessor):  # type: ignore[misc]
    """Notes at each step of `generate` what the token that is chosen greedily had; keeps a number for each row.

    `output_scores` would keep the logits of the whole vocabulary, for each row and step.
    """

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.amax(1) - scores.logsumexp(1))
        return scores

    def mean(self, row: int, steps: int) -> float:
        """Of a row's first so many tokens."""
        return float(self._by_row[row][:steps].mean())

    @cached_property
    def _by_row(self) -> torch.Tensor:
        """`(rows, steps)`, in host memory."""
        return torch.stack(self.steps, 1).cpu()
