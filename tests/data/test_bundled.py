"""The data that is made of what every Python carries."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.data import code_comments, docqa, files, rows
from sweeper.data.prompt import Conversations, renderer
from sweeper.errors import DataError
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home
from sweeper.tasks.generation import normalised

SIZES = {
    "docqa": {"train": 750, "validation": 150, "test": 250},
    "code-comments": {"train": 800, "validation": 150, "test": 300},
}
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def functions() -> Rows:
    return files._BUNDLED["code-comments"]()  # type: ignore[return-value]


@pytest.mark.parametrize("study", SIZES)
def test_every_row_fits_the_study_that_is_bundled_with_it(
    composed: Callable[..., Config], home: Home, study: str
) -> None:
    config = composed(f"study={study}")
    data = rows.of(config)
    assert {split: len(getattr(data, split)) for split in rows.SPLITS} == SIZES[study]
    assert data.train[0].place == f"{study} train:1"
    rendered = renderer(config, load_tokenizer(config.model, home), [])
    assert isinstance(rendered, Conversations)
    assert len(rendered.examples(data.train)) == SIZES[study]["train"]
    every = [row for split in rows.SPLITS for row in getattr(data, split)]
    assert rendered.prompts(every)  # refuses what does not fit
    lengths = [len(rendered.tokenizer(row.answers[0])["input_ids"]) for row in every]
    cut = sum(length + 1 > config.task.max_new_tokens for length in lengths)  # type: ignore[union-attr]
    assert cut < 0.1 * len(every)


def test_questions_have_one_answer_which_the_passage_or_the_documentation_has() -> None:
    splits = docqa.splits()
    assert docqa.splits() == splits
    contexts = {split: {row["context"] for row in found} for split, found in splits.items()}
    assert len(set.union(*contexts.values())) == sum(map(len, contexts.values()))  # none is in two splits
    whole = " ".join(" ".join(text.split()) for text in topics.values())
    for row in (row for found in splits.values() for row in found):
        [answer] = row["answers"]  # type: ignore[misc]
        assert normalised(answer)
        assert str(row["context"]) in whole
        if row["question"] == "Which topic is it from?":
            assert row["context"] in " ".join(topics[answer].split())
        else:
            assert answer in str(row["context"])
    kinds = [row["question"] for row in splits["train"]]
    assert 0.5 < kinds.count("Which topic is it from?") / len(kinds) < 0.7
    assert len(set(kinds)) == 7


def test_a_question_names_the_only_one_of_its_kind() -> None:
    names = docqa._names
    assert names('It raises "TypeError" where "int.__add__()" is "None".') == {
        "exception": "TypeError",
        "special name": "__add__",
        "constant": "None",
    }
    assert names('Either "KeyError" or "ValueError"; "len(x)" and "len()" are one.') == {"function": "len"}
    assert names("No quotes, no names: TypeError.") == {}


def test_functions_come_without_what_is_asked(functions: Rows) -> None:
    assert code_comments.splits() == functions
    every = [row for found in functions.values() for row in found]
    modules = {split: {row["id"].partition(":")[0] for row in found} for split, found in functions.items()}
    assert len(set.union(*modules.values())) == sum(map(len, modules.values()))  # none is in two splits
    for field in ("code", "comment"):
        assert len({row[field] for row in every}) == len(every)
    assert not any({"test", "tests", "idlelib"} & set(name.split(".")) for names in modules.values() for name in names)
    for row in every:
        [function] = ast.parse(row["code"]).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert (ast.get_docstring(function), function.decorator_list, function.returns) == (None, [], None)
        assert row["comment"] not in row["code"]
    longest = max(sum(row["id"].startswith(f"{name}:") for row in every) for name in set.union(*modules.values()))
    assert longest <= 20


@pytest.mark.parametrize(
    ("documentation", "expected"),
    [
        ("Return it.", "Return it."),
        ("Return it\n    over lines. And more.", "Return it over lines."),
        ("Close e.g. files. It is safe.", "Close e.g. files."),
        ("No full stop\n\nMore.", "No full stop"),
        ("Version 1.2 of it! `x` is.", "Version 1.2 of it!"),
    ],
)
def test_a_comment_is_the_first_sentence(documentation: str, expected: str) -> None:
    assert code_comments._first_sentence(documentation) == expected


@pytest.mark.parametrize(("module", "name"), [(docqa, "docqa"), (code_comments, "code-comments")])
def test_a_python_with_too_little_of_it_is_refused(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    monkeypatch.setattr(module, "SPLIT_ROWS", {"train": 10**6, "validation": 1, "test": 1})
    monkeypatch.setattr(code_comments, "_modules", list)
    with pytest.raises(DataError, match=rf"data.source={name} must find 1000002 .*install all of Python's library"):
        module.splits()


def test_a_python_without_its_topics_misses_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match=r"data\.source=docqa must find pydoc's topics, but this Python has none"):
        docqa.splits()
