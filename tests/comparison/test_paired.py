"""Rows put together, counted by hand."""

from __future__ import annotations

import pytest

from sweeper.comparison.paired import Change, Pair, RightWrong, changed, paired
from sweeper.errors import StoreError
from sweeper.mistakes.kept import Kept, hashed


def of(row: int, said: str, truth: str | None = "x", sha256: str | None = None, **more: float) -> Kept:
    sha256 = sha256 or f"hash {row}"
    return Kept(
        row=f"test.jsonl:{row}", sha256=sha256, tokens=9, prediction=said, is_correct=said == "x", truth=truth, **more
    )


def test_rows_are_told_by_their_hash_and_not_by_their_place() -> None:
    a = [of(1, "x"), of(2, "y"), of(3, "z")]
    b = [of(7, "v", sha256="hash 3"), of(8, "x", sha256="hash 2"), of(9, "x", sha256="hash 1")]
    pairs = paired(a, b)
    assert [(pair.a.row, pair.b.row) for pair in pairs] == [
        ("test.jsonl:1", "test.jsonl:9"),
        ("test.jsonl:2", "test.jsonl:8"),
        ("test.jsonl:3", "test.jsonl:7"),
    ]


def test_rows_that_are_alike_are_paired_one_by_one() -> None:
    a = [of(1, "x", sha256="same"), of(2, "y", sha256="same"), of(3, "z")]
    b = [of(3, "z"), of(4, "u", sha256="same"), of(5, "v", sha256="same")]
    assert [(pair.a.prediction, pair.b.prediction) for pair in paired(a, b)] == [("x", "u"), ("y", "v"), ("z", "z")]
    with pytest.raises(StoreError, match=r"1 row is only in A and 0 rows are only in B; 2 rows are in both"):
        paired(a, b[:2])  # the same set of hashes would be no reason to compare
    assert len(paired(a, b[:2], is_common=True)) == 2


def test_other_rows_are_refused_with_what_to_do() -> None:
    a, b = [of(1, "x"), of(2, "y"), of(3, "z")], [of(2, "x"), of(3, "z"), of(4, "y"), of(5, "y")]
    with pytest.raises(StoreError, match=r"1 row is only in A and 2 rows are only in B; 2 rows are in both.*--common"):
        paired(a, b)
    assert [pair.a.row for pair in paired(a, b, is_common=True)] == ["test.jsonl:2", "test.jsonl:3"]
    for is_common in (False, True):
        with pytest.raises(StoreError, match=r"0 rows are in both.*launch both studies on the same data\.path"):
            paired(a[:1], b, is_common)


def test_mcnemars_exact_test() -> None:
    """Of six rows that only one has right, five are B's: 2 (1 + 6) / 2⁶."""
    said = [("x", "x")] * 3 + [("x", "y")] + [("y", "x")] * 5 + [("y", "z")] * 2
    found = RightWrong.of([Pair(of(n, a), of(n, b)) for n, (a, b) in enumerate(said)])
    assert (found.both_right, found.only_a, found.only_b, found.both_wrong) == (3, 1, 5, 2)
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert not found.is_sure
    six = RightWrong.of([Pair(of(n, "y"), of(n, "x")) for n in range(6)])
    assert six.p == pytest.approx(2 / 2**6)
    assert six.is_sure
    assert RightWrong.of([Pair(of(1, "x"), of(1, "x"))]).p == 1.0


def test_what_changed() -> None:
    said = [("x", "x"), ("y", "x"), ("x", "y"), ("y", "z"), ("x", "z")]
    surest = [0.5, 0.6, 0.7, 0.8, 0.9]
    pairs = [Pair(of(n, a), of(n, b, confidence=surest[n])) for n, (a, b) in enumerate(said)]
    assert [(pair.a.row, pair.change) for pair in changed(pairs)] == [
        ("test.jsonl:4", Change.WRONG),
        ("test.jsonl:2", Change.WRONG),
        ("test.jsonl:1", Change.RIGHT),
        ("test.jsonl:3", Change.OTHER),
    ]


def test_a_text_is_compared_with_a_hash_of_one() -> None:
    long, other = of(1, "a long answer", None, token_f1=0.5), of(1, "another", None, token_f1=0.25)
    kept = long.model_copy(update={"prediction": hashed("a long answer")})
    assert hashed("a long answer").startswith("sha256:")
    assert not Pair(long, kept).differs
    assert not Pair(kept, long).differs
    assert not Pair(kept, kept).differs
    assert Pair(other, kept).differs
    assert Pair(kept, other.model_copy(update={"prediction": hashed("another")})).differs
    far = of(2, "third", None, token_f1=0.0)
    assert changed([Pair(long, other), Pair(long, far)])[0].b is far  # the farthest apart first
