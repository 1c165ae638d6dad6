"""Rows that are longer than `prompt.max_tokens`: what `data.long` does with them, and how many there were.

Only the text of a row is cut, at its begin or its end: never the template, the question beside a context, or the
answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeper.data.prompt import Conversations, Renderer
from sweeper.data.row import Row
from sweeper.data.rows import SPLITS, TaskData
from sweeper.errors import DataError, PromptError
from sweeper.quoting import name_of

BLOCK, DROP = "block", "drop"
Counts = dict[str, dict[str, int]]  # by split: rows, cut, dropped


@dataclass(frozen=True)
class Fitted:
    """Rows that fit, and what was done to them.

    Attributes:
        counts: by split, the rows that there were, that were cut and that were dropped; empty where all were to fit.
    """

    data: TaskData
    counts: Counts

    def notes(self, policy: str, limit: int) -> list[str]:
        """What was done, in words."""
        done = [
            f"{counts[what]} of {counts['rows']} rows of {split} {what}"
            for split, counts in self.counts.items()
            for what in ("cut", "dropped")
            if counts[what]
        ]
        return [f"data.long={policy}: {', '.join(done)}, to fit into prompt.max_tokens={limit}"] if done else []


def fit(rendered: Renderer | Conversations, data: TaskData, policy: str) -> Fitted:
    """Cuts or drops rows that are too long; where they are to block, rendering them says so.

    Raises:
        PromptError: naming a row that does not fit without its text either.
        DataError: if a split or a label has no row left.
    """
    if policy == BLOCK:
        return Fitted(data, {})
    kept: dict[str, Any] = {}
    counts: Counts = {}
    for split in SPLITS:
        before: list[Row] = getattr(data, split)
        kept[split] = _fitting(rendered, before, policy, is_scored=split != "train")
        cut = sum(now is not row for now, row in zip(kept[split], before, strict=False)) if policy != DROP else 0
        counts[split] = {"rows": len(before), "cut": cut, "dropped": len(before) - len(kept[split])}
    return Fitted(remaining(data, kept), counts)


def remaining(data: TaskData, kept: Mapping[str, list[Row]]) -> TaskData:
    """The data with the rows that are kept of each split.

    Raises:
        DataError: if a split or a label has no row left.
    """
    for split, found in kept.items():
        if not found:
            raise DataError(
                f"data.long=drop must leave rows in each split, but all {len(getattr(data, split))} of {split} are too "
                "long",
                code="long-rows",
            )
    left = replace(data, **dict[str, Any](kept))
    if gone := sorted(set(data.labels) - set(left.labels)):
        raise DataError(
            f"data.long=drop must leave training rows of each label, but none of {', '.join(map(name_of, gone))} fits",
            code="long-rows",
        )
    return left


def _fitting(rendered: Renderer | Conversations, rows: Sequence[Row], policy: str, is_scored: bool) -> list[Row]:
    found = []
    for row in rows:
        try:
            if rendered.length(row, is_scored) <= rendered.section.max_tokens:
                found.append(row)
            elif policy != DROP:
                found.append(shorten(rendered, row, policy, is_scored))
        except PromptError as error:
            raise PromptError(f"{row.place}: {error}", error.code) from None
    return found


def shorten(rendered: Renderer | Conversations, row: Row, policy: str, is_scored: bool) -> Row:
    """The row with as much of its text as fits; itself where it fits whole.

    Raises:
        PromptError: if it does not fit with one character of it.
    """
    is_from_begin, limit = policy == "cut_text_tail", rendered.section.max_tokens
    if rendered.length(row, is_scored) <= limit:
        return row

    def fits(characters: int) -> bool:
        return rendered.length(row.shortened(characters, is_from_begin), is_scored) <= limit

    fitting, too_many = 1, len(row.cuttable)
    if too_many < 2 or not fits(fitting):
        raise PromptError(
            f"a row must fit into prompt.max_tokens={limit} with its text cut, but its template, question and answer "
            "alone take more. Raise prompt.max_tokens or set data.long=drop",
            code="answer-cut",
        )
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if fits(middle) else (fitting, middle)
    return row.shortened(fitting, is_from_begin)
