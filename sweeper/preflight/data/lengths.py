"""Every row as tokens: which are too long, what of them is lost, and which cannot be rendered."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.config.schema import Config
from sweeper.data import long
from sweeper.data.prompt import Conversations, Renderer
from sweeper.data.row import Row
from sweeper.data.rows import SPLITS, TaskData
from sweeper.errors import DataError, PromptError, number_of
from sweeper.preflight.data.finding import Finding


@dataclass(frozen=True)
class SplitReport:
    """One split: its rows, and their tokens with the answer or the room for it, as they are trained on or scored.

    Attributes:
        cut, dropped: rows that were too long.
        lost_tokens: of those that are cut.
        shortest_tokens, median_tokens, longest_tokens: None where no row could be rendered.
    """

    rows: int
    cut: int = 0
    dropped: int = 0
    lost_tokens: int = 0
    shortest_tokens: int | None = None
    median_tokens: int | None = None
    longest_tokens: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """What rendering every row says.

    Attributes:
        usable: the training rows that can be rendered, and fit or are cut.
    """

    splits: dict[str, SplitReport]
    findings: list[Finding]
    usable: list[Row]


def measure(rendered: Renderer | Conversations, data: TaskData, config: Config) -> Measured:
    """Renders every row, and says what was found of all of them."""
    refused: dict[str, list[tuple[Row, PromptError]]] = {}
    reports, findings, kept = {}, [], {}
    for split in SPLITS:
        rows: list[Row] = getattr(data, split)
        tokens: list[tuple[Row, int]] = []
        for row in rows:
            try:
                tokens.append((row, rendered.length(row, is_scored=split != "train")))
            except PromptError as error:
                refused.setdefault(error.code, []).append((row, error))
        over = [(row, count) for row, count in tokens if count > config.prompt.max_tokens]
        is_dropped = config.data.long == long.DROP
        roomless = [row for row, _ in over if not is_dropped and not _has_room(rendered, row, split != "train")]
        findings += _too_long(split, over, roomless, len(rows), config)
        reports[split] = _report(len(rows), [count for _, count in tokens], len(over), config)
        lost = {row.place for row in (roomless if _is_cut(config) else (row for row, _ in over))}
        kept[split] = [row for row, _ in tokens if row.place not in lost]
    if config.data.long == long.DROP and not refused:
        try:
            long.remaining(data, kept)
        except DataError as error:
            findings.append(Finding.raised(error))
    findings = [*map(_refused, refused.values()), *findings, *_unreachable(rendered, data, config)]
    return Measured(reports, findings, kept["train"])


def _is_cut(config: Config) -> bool:
    return config.data.long not in (long.BLOCK, long.DROP)


def _report(rows: int, tokens: Sequence[int], over: int, config: Config) -> SplitReport:
    """The numbers of a split, of the rows as they are after they were cut or dropped."""
    limit, is_cut, is_dropped = config.prompt.max_tokens, _is_cut(config), config.data.long == long.DROP
    after = [min(count, limit) if is_cut else count for count in tokens if not (is_dropped and count > limit)]
    return SplitReport(
        rows=rows,
        cut=over if is_cut else 0,
        dropped=over if is_dropped else 0,
        lost_tokens=sum(max(0, count - limit) for count in tokens) if is_cut else 0,
        **(
            {
                "shortest_tokens": min(after),
                "median_tokens": round(statistics.median(after)),
                "longest_tokens": max(after),
            }
            if after
            else {}
        ),
    )


def _too_long(
    split: str, over: Sequence[tuple[Row, int]], roomless: Sequence[Row], count: int, config: Config
) -> list[Finding]:
    """What becomes of a split's rows that are too long."""
    if not over:
        return []
    limit, rows = config.prompt.max_tokens, [row for row, _ in over]
    lost, longest = sum(tokens - limit for _, tokens in over), max(tokens for _, tokens in over)
    head = f"{len(over)} of {count} rows of {split} take more than prompt.max_tokens={limit}"
    if config.data.long == long.DROP:
        return [Finding.warning("dropped-rows", f"{head}, the longest {longest}, and are left out", rows)]
    found = []
    if _is_cut(config):
        found.append(Finding.warning("cut-rows", f"{head}, and lose {lost} tokens of their text", rows))
    else:
        message = (
            f"{head}, by {lost} tokens in all, the longest takes {longest}; cut at their end, they would lose their "
            "answers. Raise prompt.max_tokens, or set data.long, which never cuts an answer"
        )
        found.append(Finding.error("long-rows", message, rows))
    if roomless:
        message = (
            f"in {len(roomless)} of {count} rows of {split}, template, question and answer alone take more than "
            f"prompt.max_tokens={limit}, so that the answer would be cut. Raise that, or set data.long=drop"
        )
        found.append(Finding.error("answer-cut", message, roomless))
    return found


def _has_room(rendered: Renderer | Conversations, row: Row, is_scored: bool) -> bool:
    """Whether a row that is too long has room for its answer when its text is cut."""
    least = row.shortened(1, is_from_begin=True) if len(row.cuttable) > 1 else row
    return rendered.length(least, is_scored) <= rendered.section.max_tokens


def _refused(found: Sequence[tuple[Row, PromptError]]) -> Finding:
    """The rows that cannot be rendered for one reason, which the first of them says."""
    return Finding.error(
        found[0][1].code, f"{number_of(len(found), 'row', 'rows')}: {found[0][1]}", [row for row, _ in found]
    )


def _unreachable(rendered: Renderer | Conversations, data: TaskData, config: Config) -> list[Finding]:
    """Rows to be scored whose answers are all longer than what may be written."""
    if isinstance(rendered, Renderer):
        return []
    found, limit = [], rendered.max_new_tokens
    is_matched = config.objective.metric_name == "exact_match"  # the others give something for a part
    for split in ("validation", "test"):
        rows: list[Row] = getattr(data, split)
        # A token has a character at least, most have several.
        long_ones = [row for row in rows if row.answers and min(map(len, row.answers)) > limit]
        out = [row for row in long_ones if min(map(rendered.answer_length, row.answers)) > limit]
        if out:
            end = "can never be matched" if is_matched else "are cut when written"
            message = (
                f"the answers of {len(out)} of {len(rows)} rows of {split} have more than "
                f"task.max_new_tokens={limit} tokens, and {end}"
            )
            found.append(Finding.warning("unreachable-answers", message, out))
    return found
