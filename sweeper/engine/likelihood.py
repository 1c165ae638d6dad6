"""How likely the model itself holds what it chooses or writes: beside each answer, without another forward."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from transformers import LogitsProcessor


class Choice(NamedTuple):
    """A token out of those that were allowed, and the logarithm of its probability among them."""

    token: int
    log_probability: float


class Written(NamedTuple):
    """A continuation, and the mean logarithm of its tokens' probabilities, that which ended it included."""

    tokens: tuple[int, ...]
    log_probability: float


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
