"""Splits that are cut from the training rows: the shares, the labels, the groups, and that they are kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.config.schema import Config
from sweeper.data import rows, splits
from sweeper.data.row import Row
from sweeper.errors import DataError

SHARES = {"validation": 0.2, "test": 0.1}


def labelled(counts: dict[str, int]) -> list[Row]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [Row(f"text {n}", label, f"x:{n}") for n, label in enumerate(labels)]


def test_each_label_keeps_its_share() -> None:
    all_rows = labelled({"common": 300, "rare": 40, "two": 2, "one": 1})
    cut = splits.cut(all_rows, SHARES, None, seed=0)
    counts = {split: Counter(row.label for row in part) for split, part in cut.items()}
    assert [counts[split]["common"] for split in cut] == [210, 60, 30]
    assert [counts[split]["rare"] for split in cut] == [28, 8, 4]
    assert counts["train"]["two"] >= 1
    assert counts["train"]["one"] == 1
    assert sorted(row.place for part in cut.values() for row in part) == sorted(row.place for row in all_rows)
    for part in cut.values():
        assert part == [row for row in all_rows if row in part]  # in their order
    assert cut == splits.cut(all_rows, SHARES, None, seed=0)
    assert cut != splits.cut(all_rows, SHARES, None, seed=1)


def test_labels_of_a_few_rows_fill_every_split() -> None:
    cut = splits.cut(labelled({f"label {n}": 3 for n in range(77)}), {"validation": 0.15, "test": 0.15}, None, seed=0)
    assert {row.label for row in cut["train"]} == {f"label {n}" for n in range(77)}
    assert abs(len(cut["validation"]) - len(cut["test"])) <= 1


@given(sizes=st.lists(st.integers(1, 12), min_size=12, max_size=40), seed=st.integers(0, 50))
def test_a_group_is_in_one_split(sizes: list[int], seed: int) -> None:
    all_rows = [
        Row(f"{group}-{n}", "a" if (group + n) % 3 else "b", f"x:{group}-{n}", {"customer": group})
        for group, size in enumerate(sizes)
        for n in range(size)
    ]
    cut = splits.cut(all_rows, SHARES, "customer", seed)
    splits.check_groups(cut, "customer")
    assert sorted(row.place for part in cut.values() for row in part) == sorted(row.place for row in all_rows)
    for split, share in SHARES.items():
        assert abs(len(cut[split]) - share * len(all_rows)) <= max(sizes) + 1


def test_too_few_rows_to_cut() -> None:
    with pytest.raises(
        DataError, match=r"2 different rows are too few to cut 20% for validation, 10% for test: .* is empty"
    ):
        splits.cut(labelled({"a": 1, "b": 1}), SHARES, None, seed=0)
    grouped = [Row("x", "a", f"x:{n}", {"g": n % 2}) for n in range(40)]
    with pytest.raises(DataError, match=r"2 groups are too few"):
        splits.cut(grouped, SHARES, "g", seed=0)


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    file = tmp_path / "all.jsonl"
    lines = [{"text": f"{n} please", "label": ("cancel", "return")[n % 2], "customer": n // 4} for n in range(80)]
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return file


@pytest.fixture
def study(composed: Callable[..., Config], one_file: Path) -> Callable[..., Config]:
    cut = ("data.splits.validation=null", "data.splits.test=0.1")
    return lambda *overrides: composed("study=demo", "data=files", f"data.path={one_file}", *cut, *overrides)


def places(data: rows.TaskData) -> dict[str, list[str]]:
    return {split: [row.place for row in getattr(data, split)] for split in rows.SPLITS}


def test_one_file_is_cut(study: Callable[..., Config]) -> None:
    data = rows.of(study())
    assert [len(getattr(data, split)) for split in rows.SPLITS] == [60, 12, 8]  # null: 15 %
    assert {row.label for row in data.test} == {"cancel", "return"}
    assert places(data) == places(rows.of(study()))
    assert places(data) != places(rows.of(study("data.seed=1")))
    grouped = rows.of(study("data.group=customer"))
    customers = [{row.columns["customer"] for row in getattr(grouped, split)} for split in rows.SPLITS]
    assert not customers[0] & customers[1] | customers[0] & customers[2] | customers[1] & customers[2]
    assert places(grouped) != places(data)


def test_a_study_keeps_its_splits(study: Callable[..., Config], one_file: Path, tmp_path: Path) -> None:
    config, kept = study(), tmp_path / "splits.json"
    data = rows.of(config, kept)
    rows.keep_splits(data, config.data, kept)
    assert json.loads(kept.read_text()) == places(data)
    assert places(rows.of(study("data.seed=1"), kept)) == places(data)  # not cut again
    assert rows.of(config, kept).sha256 == data.sha256
    text = one_file.read_text()
    one_file.write_text(text + '\n{"text": "new", "label": "cancel"}')
    with pytest.raises(
        DataError, match=r"must be those that were split when the study began .* but 1 came or went: all"
    ):
        rows.of(config, kept)
    one_file.write_text(text)
    rows.keep_splits(data, study("data.splits.validation=validation", "data.splits.test=test").data, kept)
    assert not kept.exists()  # what was given is not kept


def test_one_file_without_shares_is_refused(study: Callable[..., Config]) -> None:
    with pytest.raises(
        DataError, match=r"where data.splits.test is a name, but .*all.jsonl is one file. Set data.splits"
    ):
        rows.of(study("data.splits.test=test"))


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("custmer", r"all.jsonl:1: data.group: unknown column `custmer`; did you mean `customer`"),
        ("gap", r"all.jsonl:3: data.group: each row must have a group in `gap`, but this has None"),
    ],
)
def test_a_group_that_is_not_there_is_refused(
    study: Callable[..., Config], one_file: Path, group: str, expected: str
) -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in one_file.read_text().splitlines()]
    one_file.write_text("\n".join(json.dumps({**line, "gap": None if n == 2 else n}) for n, line in enumerate(lines)))
    with pytest.raises(DataError, match=expected):
        rows.of(study(f"data.group={group}"))


def test_given_splits_that_share_a_group_are_refused(composed: Callable[..., Config], ticket_files: Path) -> None:
    for n, split in enumerate(rows.SPLITS):
        file = ticket_files / f"{split}.jsonl"
        lines = [json.loads(line) | {"who": f"{n}-{m // 2}"} for m, line in enumerate(file.read_text().splitlines())]
        if split == "test":
            lines[0]["who"] = "0-1"
        file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    overrides = ("study=demo", "data=files", f"data.path={ticket_files}", "data.group=who")
    expected = (
        r"a group of `who` must be in one split, but 1 are in two: train.jsonl:3 \(train\) and test.jsonl:1 \(test\)"
    )
    with pytest.raises(DataError, match=expected):
        rows.of(composed(*overrides))
    rows.of(composed(*overrides[:-1]))


def test_one_of_the_splits_may_be_given(composed: Callable[..., Config], ticket_files: Path, tmp_path: Path) -> None:
    config = composed("study=demo", "data=files", f"data.path={ticket_files}", "data.splits.validation=0.25")
    data = rows.of(config)
    assert [len(getattr(data, split)) for split in rows.SPLITS] == [6, 2, 8]
    rows.keep_splits(data, config.data, tmp_path / "splits.json")
    assert places(rows.of(config, tmp_path / "splits.json")) == places(data)
