"""Reading a suite: the formats, and what is said of a file that is not one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import DataError
from sweeper.retention.items import Choice, Passage
from sweeper.retention.suite import load
from tests.retention.conftest import CHOICES, PASSAGES, choice_rows, lines, passage_rows, section

SECRET = "a sentence that belongs to a row"


def test_files_are_read_as_they_are(files: tuple[Path, Path]) -> None:
    suite = load(section(*files))
    assert suite.choices[2] == Choice(CHOICES[2][0], tuple(CHOICES[2][1]), 2, "c2")
    assert suite.passages[0] == Passage(PASSAGES[0], "p0")
    assert suite.texts()[2] == ("c2", CHOICES[2][0])
    assert [text for _, text in suite.texts()] == [*(question for question, _, _ in CHOICES), *PASSAGES]


def test_either_kind_may_be_left_out(files: tuple[Path, Path]) -> None:
    assert load(section(files[0], None)).passages == ()
    assert load(section(None, files[1])).choices == ()


def test_the_bundled_suite_is_one() -> None:
    suite = load(section("bundled", "bundled"))
    assert len(suite.choices) >= 100
    assert len(suite.passages) >= 50


def test_the_hash_is_that_of_the_items_and_their_order(files: tuple[Path, Path]) -> None:
    before = load(section(*files)).sha256
    files[0].write_text(lines([{**row, "source": "elsewhere"} for row in choice_rows()]), encoding="utf-8")
    assert load(section(*files)).sha256 == before  # a source says nothing that is scored
    files[0].write_text(lines(choice_rows()[::-1]), encoding="utf-8")
    assert load(section(*files)).sha256 != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": [SECRET]}, r"`choices` must be a list of two texts or more, but is a list of 1"),
        ({"choices": SECRET}, r"`choices` must be a list of two texts or more, but is a text of 32 characters"),
        ({"choices": [SECRET, 3]}, r"`choices\[1\]` must be a text, but is a number"),
        ({"choices": [SECRET, SECRET + " "]}, r"each of `choices` must be another text, but two are alike"),
        ({"answer": 3}, r"`answer` must be an index into `choices`, 0 to 1, but is 3"),
        ({"answer": True}, r"`answer` must be an index into `choices`, 0 to 1, but is the value True"),
        ({"answer": SECRET}, r"0 to 1, but is a text of 32 characters"),
        ({"question": " "}, r"`question` must be a text, but is an empty text; the row has id, source, question"),
        ({"id": 7}, r"`id` must be a text, but is a number"),
        ({"id": "c0"}, r"each item must have an id of its own, but has that of choices.jsonl:1"),
    ],
)
def test_a_wrong_row_is_named_without_its_text(files: tuple[Path, Path], change: dict[str, Any], message: str) -> None:
    rows = choice_rows()
    rows[1] |= change
    files[0].write_text(lines(rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"choices\.jsonl:2: .*" + message) as raised:
        load(section(*files))
    assert SECRET not in str(raised.value)


def test_a_row_without_a_field_names_what_it_has(files: tuple[Path, Path]) -> None:
    files[1].write_text(lines([*passage_rows(), {"id": "x", "body": SECRET}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"passages\.jsonl:6: `text` must be a text, but is missing; .* has id, body"):
        load(section(*files))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "retention.passages must be bundled or a JSONL file, but there is no such file"),
        (
            "text.csv",
            "id,text\n",
            r"must be bundled or a JSONL file, but is another one: .*; retention.passages=null goes without",
        ),
        ("one.jsonl", lines(passage_rows()[:1]), "must have two items or more, but .* has 1"),
        ("broken.jsonl", '{"id": "a"', r"broken\.jsonl, line 1: must be one JSON object"),
    ],
)
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load(section(None, tmp_path / name))
