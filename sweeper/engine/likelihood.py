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
    hidden = head.hidden(chunk.tokens, chunk.attention_mask)
    spans = [(row, starts[row], len(item.tokens)) for row, item in enumerate(chunk.items)]
    rows = torch.tensor([row for row, start, end in spans for _ in range(start, end)], device=device)
    places = torch.tensor([place for _, start, end in spans for place in range(start, end)], device=device)
    sums = torch.zeros(len(spans), dtype=torch.float64, device=device)
    # As many positions at a time as there are rows: the logits then take no more than where rows are scored by their
    # last position, which is what is known of the memory.
    for row, place in zip(torch.split(rows, len(spans)), torch.split(places, len(spans)), strict=True):
        logits = head.logits(hidden[row, place - 1])
        chosen = logits.gather(1, chunk.tokens[row, place][:, None])[:, 0]
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
