"""SQuAD's own files, as they are published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.errors import DataError


def asked(question: str, *texts: str, **more: Any) -> dict[str, Any]:
    answers = [{"text": text, "answer_start": 0} for text in texts]
    return {"id": f"id of {question}", "question": question, "answers": answers, **more}


def squad(*questions: dict[str, Any]) -> dict[str, Any]:
    """Two questions to a paragraph."""
    pairs = [questions[n : n + 2] for n in range(0, len(questions), 2)]
    paragraphs = [{"context": f"passage {n}", "qas": list(pair)} for n, pair in enumerate(pairs)]
    return {"version": "1.1", "data": [{"title": "A_title", "paragraphs": [one]} for one in paragraphs]}


@pytest.fixture
def study(composed: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    columns = [f"data.columns.{key}={key}" for key in ("question", "context", "answers")]

    def make(content: Any, *overrides: str) -> Config:
        for split in ("train-v1.1", "dev-v1.1"):
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (tmp_path / f"{split}.json").write_text(text, encoding="utf-8")
        return composed("study=demo", "task=generation", "data=files", f"data.path={tmp_path}", *columns, *overrides)

    return make


NAMES = ("data.splits.train=train-v1.1.json", "data.splits.validation=dev-v1.1", "data.splits.test=dev-v1.1")


def test_each_question_is_a_row(study: Callable[..., Config]) -> None:
    content = squad(asked("who?", "Ada", "Ada", "Lovelace"), asked("when?", "1843"), asked("wö?", "hier"))
    data = rows.of(study(content, *NAMES))
    assert [row.text for row in data.train] == ["passage 0\n\nwho?", "passage 0\n\nwhen?", "passage 1\n\nwö?"]
    assert [row.answers for row in data.validation] == [("Ada", "Lovelace"), ("1843",), ("hier",)]
    assert [row.place for row in data.train] == [f"train-v1.1.json:{n}" for n in (1, 2, 3)]
    assert data.train[2].columns["title"] == "A_title"


def test_a_group_keeps_a_passage_in_one_split(study: Callable[..., Config], tmp_path: Path) -> None:
    content = squad(*(asked(f"{n}?", "x") for n in range(40)))
    cut = ("data.splits.validation=0.2", "data.splits.test=0.2", "data.group=context")
    data = rows.of(study(content, f"data.path={tmp_path / 'train-v1.1.json'}", *cut))
    contexts = [{row.columns["context"] for row in split} for split in (data.train, data.validation, data.test)]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == 20


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", r"train-v1.1.json: must be JSON, but Expecting property name"),
        ("[]", r'must have the form of SQuAD, \{"data".*but `data` is no list; or write JSON Lines'),
        ({"data": [{"title": "x"}]}, r"but `data\[0\]\.paragraphs` is no list"),
        ({"data": [{"paragraphs": [{"qas": ["who?"]}]}]}, r"but `data\[0\]\.paragraphs\[0\]\.qas\[0\]` is no object"),
        ({"data": [{"paragraphs": [{"qas": [{"question": "who?"}]}]}]}, r"qas\[0\]\.answers` is no list"),
        (
            {"data": [{"paragraphs": [{"qas": [{"question": "who?", "answers": [{"text": ["Ada"]}]}]}]}]},
            r"but `data\[0\]\.paragraphs\[0\]\.qas\[0\]\.answers\[0\]\.text` is a list of 1",
        ),
        (
            squad(asked("who?", "Ada"), asked("why?", is_impossible=True), asked("how?")),
            r"each question must have an answer, but 2 of 3 have none, the first of them question 2\. Leave",
        ),
        (
            {"data": [{"paragraphs": [{"qas": [asked("who?", "Ada")]}]}]},
            r"train-v1.1.json:1: `context` must be text, but got the value None",
        ),
    ],
)
def test_another_form_is_refused_with_its_place(study: Callable[..., Config], content: Any, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        rows.of(study(content, *NAMES))


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-16", r"train-v1.1.json: must be UTF-8, but is UTF-16; iconv -f UTF-16 -t UTF-8"),
        ("latin-1", r"train-v1.1.json, line 1: must be UTF-8, but .*; iconv -f WINDOWS-1252 -t UTF-8"),
    ],
)
def test_another_encoding_is_refused_with_its_cure(
    study: Callable[..., Config], tmp_path: Path, encoding: str, expected: str
) -> None:
    config = study(squad(asked("wö?", "hier")), *NAMES)
    file = tmp_path / "train-v1.1.json"
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(DataError, match=expected) as caught:
        rows.of(config)
    assert caught.value.code == "encoding"


def test_json_beside_other_rows_is_none_of_them(
    composed: Callable[..., Config], few_tickets: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(few_tickets, tmp_path / "rows"))
    (folder / "train.json").write_text('{"made": "by hand"}')
    data = rows.of(composed("study=demo", "data=files", f"data.path={folder}"))
    assert {row.place.partition(":")[0] for row in data.train} == {"train.jsonl"}
