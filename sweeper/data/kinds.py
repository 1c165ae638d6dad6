"""The kinds of rows that `data.columns` may describe, and what of each is asked and answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweeper.config.teaching import ColumnsSection
from sweeper.custom.own import OwnTask
from sweeper.data.row import Row
from sweeper.errors import DataError, unknown
from sweeper.quoting import kind_of, name_of, word_of

ROLES = ("system", "user", "assistant")
Messages = tuple[tuple[str, str], ...]


def check_columns(columns: ColumnsSection, raw: Mapping[str, Any], place: str) -> None:
    """Refuses a row without a column that its kind has.

    Raises:
        DataError: listing the columns that there are.
    """
    for key, column in columns.named().items():
        if column not in raw:
            raise DataError(f"{place}: data.columns.{key}: {unknown('column', column, map(name_of, raw))}")


def row_of(columns: ColumnsSection, raw: Mapping[str, Any], place: str) -> Row:
    """Reads a row.

    Raises:
        ValueError: saying which column is not usable, without its place.
    """
    if columns.label is not None:
        return replace(asking(columns, raw, place), label=_label(raw, columns.label))
    if columns.messages is not None:
        messages = read_messages(raw[columns.messages], f"`{columns.messages}`")
        if messages[-1][0] != "assistant":
            raise ValueError(
                f"`{columns.messages}` must end with the assistant's turn, but does with {messages[-1][0]}'s"
            )
        return Row(messages[-2][1], "", place, raw, answers=(messages[-1][1],), messages=messages)
    for column in (columns.answer, columns.comment):
        if column is not None:
            return replace(asking(columns, raw, place), answers=(_text(raw, column),))
    assert columns.answers is not None  # checked with the configuration
    return replace(asking(columns, raw, place), answers=read_answers(raw[columns.answers], columns.answers))


def own_row(own: OwnTask, raw: Mapping[str, Any], place: str) -> Row:
    """A row as the user's task says.

    Raises:
        ValueError: saying what of it is not usable, without its place.
        CustomCodeError: if the user's code raises.
    """
    asked = own_asking(own, raw, f" at {place}")
    answers = _checked_answers(
        own.answer(raw, f" at {place}"), f"answer of {own.what} must be a text or a list of texts"
    )
    messages = (*asked.messages, ("assistant", answers[0])) if asked.messages else ()
    return replace(asked, place=place, answers=answers, messages=messages)


def own_asking(own: OwnTask, raw: Mapping[str, Any], where: str = "") -> Row:
    """A row without its answer, as the user's task says; raises as `own_row` does."""
    asked, what = own.prompt(raw, where), f"prompt of {own.what}"
    if isinstance(asked, str):
        if not asked.strip():
            raise ValueError(f"{what} must be text, but got {asked!r:.60}")
        return Row(asked, "", "", raw)
    messages = read_messages(asked, what, least=1)
    if messages[-1][0] != "user":
        raise ValueError(f"{what} must end with the user's message, but does with {messages[-1][0]}'s")
    return Row(messages[-1][1], "", "", raw, messages=messages)


def asking(columns: ColumnsSection, raw: Mapping[str, Any], place: str = "") -> Row:
    """A row without its answer: what it asks, and what of that may be cut.

    Raises:
        ValueError: saying which column is not usable.
    """
    if columns.question is not None and columns.context is not None:
        question = f"\n\n{_text(raw, columns.question)}"
        text = _text(raw, columns.context) + question
        return Row(text, "", place, raw, source=columns.context, fixed=len(question))
    column = columns.text or columns.prompt or columns.code
    assert column is not None  # checked with the configuration
    return Row(_text(raw, column), "", place, raw, source=column)


def conversation(columns: ColumnsSection, raw: Mapping[str, Any]) -> Messages:
    """The messages up to where the assistant is to answer; a text alone is the user's.

    Raises:
        ValueError: saying what is wrong with them.
    """
    assert columns.messages is not None
    value = raw[columns.messages]
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return (("user", value),)
    messages = read_messages(value, f"`{columns.messages}`", least=1)
    return messages[:-1] if messages[-1][0] == "assistant" else messages


def _text(raw: Mapping[str, Any], column: str) -> str:
    value = raw.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{column}` must be text, but got {kind_of(value)}")
    return _whole(value, f"`{column}`")


def _whole(text: str, what: str) -> str:
    """Refuses what JSON can write and no tokenizer reads, as of an emoji that was cut in half."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} must be Unicode, but has half of a character at {error.start + 1}") from None
    return text


def _label(raw: Mapping[str, Any], column: str) -> str:
    value = raw[column]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        cure = "; give the row a label, or take it out" if value is None or isinstance(value, str) else ""
        raise ValueError(f"`{column}` must be text or a whole number, but got {kind_of(raw[column])}{cure}")
    return _whole(value, f"`{column}`")


def read_answers(value: Any, column: str) -> tuple[str, ...]:
    """A text, a list of texts, or SQuAD's form, a list of texts under `text`."""
    value = _parsed(value, ("[", "{"))
    if isinstance(value, Mapping):
        value = value.get("text")
    return _checked_answers(value, f"`{column}` must be a text, a list of texts, or have them under `text`")


def _checked_answers(value: Any, rule: str) -> tuple[str, ...]:
    answers = [value] if isinstance(value, str) else value
    if (
        not isinstance(answers, list | tuple)
        or not answers
        or not all(isinstance(a, str) and a.strip() for a in answers)
    ):
        raise ValueError(f"{rule}, but got {kind_of(value)}")
    return tuple(_whole(answer, "an answer") for answer in answers)


def read_messages(value: Any, what: str, least: int = 2) -> Messages:
    """A list of messages, each with its role and content, in JSON where the file has only texts."""
    value = _parsed(value, ("[",))
    if not isinstance(value, list | tuple) or len(value) < least:
        raise ValueError(
            f"{what} must be a list of at least {least} message{'s' if least > 1 else ''}, but got {kind_of(value)}"
        )
    messages = []
    for number, message in enumerate(value, start=1):
        where = f"{what}, message {number}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"{where}: must have `role` and `content`, but got {kind_of(message)}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise ValueError(f"{where}: {unknown('role', word_of(role), ROLES)}")
        if role == "system" and number > 1:
            raise ValueError(f"{where}: a system message must be the first, but is not")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"{where}: `content` must be text, but got {kind_of(content)}")
        messages.append((role, _whole(content, f"{where}: `content`")))
    return tuple(messages)


def _parsed(value: Any, begins: tuple[str, ...]) -> Any:
    """A JSON value that is written as text, as in a CSV file; other texts as they are."""
    if isinstance(value, str) and value.lstrip().startswith(begins):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value
