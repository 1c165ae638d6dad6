"""Which columns make which task."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.draft.columns import columns_of, described, guess
from sweeper.errors import DataError

LONG = "a text of several words that is never the same, number {}"
MESSAGES = [{"role": "user", "content": "hello {}"}, {"role": "assistant", "content": "good day"}]


def rows_of(**columns: Any) -> list[dict[str, Any]]:
    """Forty rows; a text with {} has its number put in, a list is gone round."""

    def value(made: Any, number: int) -> Any:
        if isinstance(made, str):
            return made.format(number)
        if isinstance(made, list) and made and not isinstance(made[0], dict):
            return made[number % len(made)]
        return made

    return [{name: value(made, number) for name, made in columns.items()} for number in range(40)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": LONG, "label": ["a", "b"]}, {"text": "text", "label": "label"}),
        ({"id": "{}", "Body (raw)": LONG, "Our team": ["a", "b", "c"]}, {"text": "Body (raw)", "label": "Our team"}),
        ({"uuid": "8f14e45f-ceea-467f-a8f2-{}", "words": LONG, "y": [0, 1]}, {"text": "words", "label": "y"}),
        ({"headline": "short {}", "description": LONG, "topic": ["a", "b"]}, {"text": "description", "label": "topic"}),
        ({"Ask": LONG, "Say": "It is {}."}, {"prompt": "Ask", "answer": "Say"}),
        ({"instruction": LONG, "input": ["", "x y"], "output": LONG}, {"prompt": "instruction", "answer": "output"}),
        ({"userQuestion": LONG, "ourReply": LONG}, {"prompt": "userQuestion", "answer": "ourReply"}),
        (
            {"title": ["t", "u"], "question": LONG, "context": LONG, "answers": {"text": ["a"], "answer_start": [0]}},
            {"question": "question", "context": "context", "answers": "answers"},
        ),
        (
            {"context": LONG, "question": ["which one?", "who?"], "answer": ["yes", "no"]},
            {"question": "question", "context": "context", "answers": "answer"},
        ),
        ({"func_code": LONG, "docstring": LONG}, {"code": "func_code", "comment": "docstring"}),
        ({"dialog": MESSAGES, "label": ["a", "b"]}, {"messages": "dialog"}),
    ],
)  # fmt: skip
def test_a_task_is_told_by_its_columns(columns: dict[str, Any], expected: dict[str, str]) -> None:
    made = guess(columns_of(rows_of(**columns)), None, {})
    assert made.columns == expected
    written = "comments" if "code" in expected else "generation"
    assert made.task == ("classification" if "label" in expected else written)


def test_the_task_that_is_wanted_comes_first() -> None:
    columns = columns_of(rows_of(question=LONG, reply=LONG, category=["a", "b"]))
    assert guess(columns, None, {}).columns == {"prompt": "question", "answer": "reply"}
    assert guess(columns, "classification", {}).columns == {"text": "question", "label": "category"}


def test_comments_may_be_scored_as_answers_and_answers_as_comments() -> None:
    columns = columns_of(rows_of(func_code=LONG, docstring=LONG, question=LONG, reply=LONG))
    for task in ("generation", "comments"):
        assert (guess(columns, task, {}).task, guess(columns, task, {}).columns) == (
            task,
            {"code": "func_code", "comment": "docstring"},
        )
    made = guess(columns, "comments", {"prompt": "question", "answer": "reply"})
    assert (made.task, made.columns) == ("comments", {"prompt": "question", "answer": "reply"})


def test_columns_that_are_given_are_used() -> None:
    columns = columns_of(rows_of(a=LONG, b=LONG, c=["x", "y"], d=["u", "v", "w"]))
    assert guess(columns, None, {"label": "d", "text": "b"}).columns == {"text": "b", "label": "d"}
    assert guess(columns, None, {"prompt": "a", "answer": "c"}).task == "generation"
    with pytest.raises(DataError, match=r"--column label: unknown column `e`\. Known: a, b, c, d"):
        guess(columns, None, {"label": "e"})


def test_no_telling_lists_the_columns_and_none_of_their_values() -> None:
    columns = columns_of(rows_of(a="secret words {}", b=["x", "y"], c=["u", "v"]))
    with pytest.raises(DataError) as caught:
        guess(columns, None, {})
    message = str(caught.value)
    assert "a: texts of 15 characters on average, 40 different in 40 rows" in message
    assert "--column text=NAME --column label=NAME" in message
    assert "secret" not in message


def test_the_keys_of_the_wanted_task_are_listed_once() -> None:
    with pytest.raises(DataError) as caught:
        guess(columns_of(rows_of(a="{}", b=["x", "y"])), "comments", {})
    assert str(caught.value).endswith(
        "\nSay it, such as --column prompt=NAME --column answer=NAME, or --column code=NAME --column comment=NAME; "
        "keys: messages; question, context, answers; code, comment; prompt, answer"
    )


def test_rivals_and_groups_are_said() -> None:
    made = guess(columns_of(rows_of(text=LONG, label=["a", "b"], topic=["c", "d"], customer=["m", "n", "o"])), None, {})
    assert "topic could be labels too" in made.why
    assert made.group is not None
    assert (made.group.name, made.group.distinct) == ("customer", 3)


def test_a_label_that_is_missing_here_and_there_is_one_all_the_same() -> None:
    rows = rows_of(text=LONG, label=["a", "b"])
    rows[3]["label"] = ""
    [_, label] = columns_of(rows)
    assert (label.holds, label.filled) == ("label", 39)
    assert described(label) == "short values that recur of 1 characters on average, 2 different in 39 rows"
