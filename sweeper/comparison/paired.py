"""Two sets of predictions for the same rows, row by row: which are the same rows, who is right, what changed. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sweeper.errors import StoreError
from sweeper.mistakes.kept import HASHED, Kept, hashed

SURE = 0.05  # what is less likely than that by chance alone is no chance


class Change(StrEnum):
    """What became of a row from A to B, where its prediction is another."""

    RIGHT, WRONG, OTHER = "became_right", "became_wrong", "other"


@dataclass(frozen=True)
class Pair:
    """One row as both have predicted it."""

    a: Kept
    b: Kept

    @property
    def differs(self) -> bool:
        return _sign(self.a.prediction, self.b.prediction) != _sign(self.b.prediction, self.a.prediction)

    @property
    def change(self) -> Change:
        """What B makes of it; OTHER where both are right, or both wrong."""
        if self.a.is_correct == self.b.is_correct:
            return Change.OTHER
        return Change.RIGHT if self.b.is_correct else Change.WRONG


@dataclass(frozen=True)
class RightWrong:
    """How many rows who has right, and McNemar's exact test of those that only one has right.

    If both were as good, each of these would be either's with a chance of one half.
    (McNemar, Psychometrika 12, 1947; the exact form is a binomial test.)

    Attributes:
        p: how likely a split at least as uneven would then be.
    """

    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    p: float

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> RightWrong:
        counts = Counter((pair.a.is_correct, pair.b.is_correct) for pair in pairs)
        only_a, only_b = counts[True, False], counts[False, True]
        p = 1.0
        if only_a + only_b:
            from scipy.stats import binomtest

            p = float(binomtest(only_a, only_a + only_b).pvalue)
        return cls(counts[True, True], only_a, only_b, counts[False, False], p)

    @property
    def is_sure(self) -> bool:
        """Whether chance alone does not explain it."""
        return self.p < SURE

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def paired(a: Sequence[Kept], b: Sequence[Kept], is_common: bool = False) -> list[Pair]:
    """The predictions for each row, in the order of A; rows are told by their hash, wherever they stand.

    Rows of the same hash are the same text with the same truth: the first is paired with the first, and so on.

    Args:
        is_common: take the rows that both have, and leave the others out.

    Raises:
        StoreError: if the rows are not the same ones.
    """
    of_a, of_b = (Counter(one.sha256 for one in side) for side in (a, b))
    both = of_a & of_b
    if (of_a != of_b and not is_common) or not both:
        raise StoreError(_other_rows((of_a - of_b).total(), (of_b - of_a).total(), both.total()))
    found: dict[str, list[Kept]] = defaultdict(list)
    for one in reversed(b):
        found[one.sha256].append(one)
    return [Pair(one, found[one.sha256].pop()) for one in a if found[one.sha256]]


def changed(pairs: Sequence[Pair]) -> list[Pair]:
    """Those whose prediction is another: what became wrong first, then what became right; of these the surest of B."""
    order = (Change.WRONG, Change.RIGHT, Change.OTHER)
    found = [pair for pair in pairs if pair.differs]
    return sorted(found, key=lambda pair: (order.index(pair.change), -_gap(pair), -(pair.b.confidence or 0.0)))


def _gap(pair: Pair) -> float:
    """How far apart two written answers are by their token F1; zero where labels are predicted."""
    return abs((pair.b.token_f1 or 0.0) - (pair.a.token_f1 or 0.0))


def _sign(own: str, other: str) -> str:
    """A prediction, or its hash where the other one is a hash."""
    is_hash = own.startswith(HASHED)
    return own if is_hash or not other.startswith(HASHED) else hashed(own)


def _other_rows(only_a: int, only_b: int, both: int) -> str:
    advice = (
        "--common compares them on those that both have"
        if both
        else "compare trials of one study, or launch both studies on the same data.path (and data.seed, where sweeper "
        "cuts the splits)"
    )
    return (
        f"A and B must have predictions for the same rows, but {only_a} {_rows(only_a)} only in A and {only_b} "
        f"{_rows(only_b)} only in B; {both} {_rows(both)} in both. A row is the same where its text and what is right "
        f"are; {advice}"
    )


def _rows(count: int) -> str:
    return "row is" if count == 1 else "rows are"
