"""Wrong rows counted: which label for which, by length, and by confidence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweeper.mistakes.joined import Joined, Judged

_PARTS = 4  # quartiles of the rows' lengths
_CONFIDENCES = (0.0, 0.5, 0.7, 0.9, 0.99, 1.0)  # finer where a model that knows its task is


@dataclass(frozen=True)
class Confusion:
    """Rows of one label that got another, the surest first."""

    truth: str
    predicted: str
    rows: list[Judged]


@dataclass(frozen=True)
class Bucket:
    """Rows that are alike in something.

    Attributes:
        low, high: of what, both included.
        mean: of it.
    """

    low: float
    high: float
    mean: float
    rows: int
    wrong: int


def confusions(joined: Joined) -> list[Confusion]:
    """The pairs of labels that are taken for each other, the most frequent first; none where answers are written."""
    pairs: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for one in joined.wrong:
        if one.kept.truth is not None:
            pairs[one.kept.truth, one.kept.prediction].append(one)
    found = [Confusion(truth, predicted, rows) for (truth, predicted), rows in pairs.items()]
    return sorted(found, key=lambda one: (-len(one.rows), one.truth, one.predicted))


def by_length(judged: Sequence[Judged]) -> list[Bucket]:
    """Quarters of the rows by the tokens of their prompts; rows of one length stay together."""
    lengths = sorted(one.kept.tokens for one in judged)
    edges = sorted({lengths[len(lengths) * part // _PARTS] for part in range(_PARTS)}) if lengths else []

    def bucket(one: Judged) -> int:
        return sum(one.kept.tokens >= edge for edge in edges)

    return _buckets(judged, bucket, lambda one: one.kept.tokens)


def by_confidence(judged: Sequence[Judged]) -> list[Bucket]:
    """Rows by the probability that their predictions had; rows whose predictions had none are left out."""
    known = [one for one in judged if one.kept.confidence is not None]

    def bucket(one: Judged) -> int:
        return sum((one.kept.confidence or 0.0) >= edge for edge in _CONFIDENCES[1:-1])

    return _buckets(known, bucket, lambda one: one.kept.confidence or 0.0)


def worst(joined: Joined) -> list[Judged]:
    """The wrong rows to look at first: the least like what is right, then the surest."""
    return sorted(joined.wrong, key=lambda one: one.kept.token_f1 or 0.0)  # it is stable


def against_base(judged: Sequence[Judged]) -> tuple[int, int, int] | None:
    """How many rows the base had wrong, and of all how many the adapter fixed and broke; None where it is not known."""
    known = [(one.kept.is_correct, one.base.is_correct) for one in judged if one.base is not None]
    if not known or len(known) < len(judged):
        return None
    return (
        sum(not base for _, base in known),
        sum(own and not base for own, base in known),
        sum(base and not own for own, base in known),
    )


def _buckets(
    judged: Sequence[Judged], bucket: Callable[[Judged], int], value: Callable[[Judged], float]
) -> list[Bucket]:
    parts: dict[int, list[Judged]] = defaultdict(list)
    for one in judged:
        parts[bucket(one)].append(one)
    made = []
    for _, rows in sorted(parts.items()):
        values = [value(one) for one in rows]
        wrong = sum(not one.kept.is_correct for one in rows)
        made.append(Bucket(min(values), max(values), sum(values) / len(values), len(rows), wrong))
    return made
