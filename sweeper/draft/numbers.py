"""The numbers of a draft: what its rows make sensible."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.data.prompt import Conversations, Renderer, renderer
from sweeper.data.row import Row
from sweeper.errors import SweeperError
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home
from sweeper.preflight.architecture import model_config
from sweeper.preflight.data.labels import is_uneven

MOST_TOKENS = 2048  # of a row, before its text is cut
ANY_TOKENS = 1_000_000  # until they are measured
GUESSED_TOKENS, GUESSED_ANSWER_TOKENS = 512, 64  # where they cannot be
_STEP_TOKENS = 32
_MEASURED = 300  # the longest rows of a split, by characters


@dataclass(frozen=True)
class Numbers:
    """What is written into a draft, and from what.

    Attributes:
        counts: rows of each split.
        labels: of the training rows, the commonest first.
        longest_tokens: of a row, with its answer; None where it could not be measured.
        answer_tokens: of the longest written answer, rounded up, as far as a draft has room for it.
        longest_answer_tokens: of that answer; None where it could not be measured.
        problem: why not.
    """

    counts: dict[str, int]
    labels: dict[str, int]
    longest_tokens: int | None
    max_tokens: int
    answer_tokens: int
    problem: str | None
    longest_answer_tokens: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether rows are longer than they may be."""
        return self.longest_tokens is not None and self.longest_tokens > self.max_tokens

    @property
    def is_uneven(self) -> bool:
        """Whether accuracy alone would say little."""
        return is_uneven(self.labels)

    @property
    def epochs(self) -> int:
        return 1 if self.counts["train"] >= 4000 else 2 if self.counts["train"] >= 1000 else 3

    @property
    def batch_size(self) -> int:
        return 16 if self.counts["train"] >= 1000 else 8

    @property
    def ranks(self) -> list[int]:
        return [8, 16, 32, 64] if self.counts["train"] >= 500 else [4, 8, 16]

    @property
    def evaluations(self) -> int:
        return min(4, self.epochs * self.counts["train"])

    @property
    def evaluation_rows(self) -> int | None:
        """None: all validation rows."""
        return 500 if self.counts["validation"] > 500 else None


def counted(config: Config) -> Numbers:
    """Counts the rows of a draft.

    Raises:
        DataError: if they cannot be read.
    """
    data = rows.of(config)
    return Numbers(
        counts={split: len(getattr(data, split)) for split in rows.SPLITS},
        labels=data.label_counts,
        longest_tokens=None,
        max_tokens=ANY_TOKENS,
        answer_tokens=GUESSED_ANSWER_TOKENS,
        problem=None,
    )


def measured(numbers: Numbers, config: Config, home: Home) -> Numbers:
    """Measures them, as the draft's prompt renders them, with the tokenizer of its model."""
    data = rows.of(config)
    try:
        rendered = renderer(config, load_tokenizer(config.model, home), data.labels)
        longest, answer, longest_answer = _longest(rendered, {split: getattr(data, split) for split in rows.SPLITS})
        positions = model_config(config, home).get("max_position_embeddings") or MOST_TOKENS
    except SweeperError as error:  # the draft is written all the same, and the check of the rows says this again
        return replace(numbers, max_tokens=GUESSED_TOKENS, problem=str(error))
    most = min(int(positions), MOST_TOKENS)
    return replace(
        numbers,
        longest_tokens=longest,
        max_tokens=min(_rounded(longest), most),
        answer_tokens=answer,
        longest_answer_tokens=longest_answer,
    )


def _longest(rendered: Renderer | Conversations, splits: Mapping[str, Sequence[Row]]) -> tuple[int, int, int]:
    """The tokens of the longest row with room for its answer, of that room, and of the longest answer."""
    longest = {
        split: heapq.nlargest(_MEASURED, found, key=lambda row: sum(map(len, (row.text, *row.answers))))
        for split, found in splits.items()
    }
    if isinstance(rendered, Renderer):
        return max(rendered.length(row, split != "train") for split in longest for row in longest[split]), 0, 0
    every = [row for found in splits.values() for row in found]
    written = heapq.nlargest(_MEASURED, every, key=lambda row: len(row.answers[0]))
    longest_answer = max(rendered.length(row, False) - len(rendered.prompt_tokens(row)) for row in written)
    answer = min(_rounded(longest_answer), MOST_TOKENS // 4)
    taken = [
        max(rendered.length(row, False), len(rendered.prompt_tokens(row)) + answer)
        for found in longest.values()
        for row in found
    ]
    return max(taken), answer, longest_answer


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP_TOKENS) * _STEP_TOKENS
