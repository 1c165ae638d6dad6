"""What `sweeper data check` finds in rows that can all be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.schema import Config
from sweeper.errors import DataError, PromptError
from sweeper.paths import Home
from sweeper.preflight.data import DataReport, check_data

Check = Callable[..., DataReport]


@pytest.fixture
def checked(composed: Callable[..., Config], home: Home, ticket_files: Path) -> Check:
    """Checks the files of `ticket_files`."""
    return lambda *overrides: check_data(
        composed("study=demo", "data=files", f"data.path={ticket_files}", *overrides), home
    )


def add(folder: Path, split: str, **row: str) -> None:
    with (folder / f"{split}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def test_what_there_is(checked: Check, ticket_files: Path) -> None:
    add(ticket_files, "train", text="please cancel it, " * 20, label="cancel")
    report = checked()
    assert [split.rows for split in report.splits.values()] == [9, 8, 8]
    assert report.labels == {"cancel": 5, "return": 4}
    train = report.splits["train"]
    assert 10 < train.shortest_tokens <= train.median_tokens < train.longest_tokens / 5
    assert "".join(text for text, _ in report.shown).startswith("<|user|>\nplease cancel the 0th order")
    assert [text for text, is_supervised in report.shown if is_supervised] == ["cancel<|end|>"]


def test_repeated_contradicted_and_leaked_rows_are_found(checked: Check, ticket_files: Path) -> None:
    for split in ("train", "validation", "test"):
        text = (ticket_files / f"{split}.jsonl").read_text(encoding="utf-8").replace("order", f"order of {split}")
        (ticket_files / f"{split}.jsonl").write_text(text, encoding="utf-8")
    assert [line for line in checked().warnings if "fewer than 5" not in line] == []
    add(ticket_files, "train", text="please cancel the 0th order of train", label="return")
    add(ticket_files, "test", text="please cancel the 1th order of train", label="cancel")
    warnings = checked().warnings
    assert "1 rows of train ask what an earlier row of it does: train.jsonl:9" in warnings
    assert "1 texts have more than one label: train.jsonl:1, train.jsonl:9" in warnings
    [leaked] = [line for line in warnings if "remembered" in line]
    assert leaked.startswith("1 of 9 rows of test are asked in train too")
    assert leaked.endswith("test.jsonl:9")
    assert "1 labels have fewer than 5 training rows: cancel" in warnings


def test_what_is_cut_or_dropped_is_counted(checked: Check, ticket_files: Path) -> None:
    add(ticket_files, "validation", text="please cancel it, " * 20, label="cancel")
    with pytest.raises(PromptError, match=r"prompt.max_tokens=40, but 1 of 9 do not"):
        checked("prompt.max_tokens=40")
    assert checked("prompt.max_tokens=40", "data.long=cut_text_tail").splits["validation"].cut == 1
    dropped = checked("prompt.max_tokens=40", "data.long=drop").splits["validation"]
    assert (dropped.rows, dropped.dropped) == (9, 1)
    assert dropped.longest_tokens <= 40


def test_rows_that_are_not_usable_are_an_error(checked: Check, ticket_files: Path) -> None:
    add(ticket_files, "train", text="  ", label="cancel")
    with pytest.raises(DataError, match=r"1 rows of `train` are not usable"):
        checked()


def test_the_splits_of_a_study_that_has_not_begun_bind_nobody(checked: Check, home: Home, ticket_files: Path) -> None:
    overrides = [f"data.path={ticket_files / 'train.jsonl'}", "data.splits.validation=0.25", "data.splits.test=0.25"]
    paths = home.study("demo")
    paths.create()
    paths.splits.write_text(json.dumps({"train": ["other.csv:1"], "validation": ["other.csv:2"], "test": []}))
    assert sum(split.rows for split in checked(*overrides).splits.values()) == 8
