"""Reads questions from JSON files in SQuAD's form: articles, their paragraphs, and the questions to each.

Every question becomes a row with `id`, `title`, `question`, `context` and `answers`, each answer once. A row's number
is that of its question, from the begin of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.data import encoding
from sweeper.errors import DataError
from sweeper.quoting import kind_of

_FORM = '{"data": [{"paragraphs": [{"context": …, "qas": [{"question": …, "answers": [{"text": …}]}]}]}]}'


def read(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The questions of a file, counted from 1.

    Raises:
        DataError: saying where the file has another form, or a question no answer.
    """
    try:
        content = json.loads(encoding.decoded(file, file.read_bytes()))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: must be JSON, but {error}") from None
    number, unanswered = 0, []
    for article_place, article in _members(content, "data", file, ""):
        for place, paragraph in _members(article, "paragraphs", file, article_place):
            for question_place, asked in _members(paragraph, "qas", file, place):
                number += 1
                texts = [
                    _text(answer, file, where) for where, answer in _members(asked, "answers", file, question_place)
                ]
                if not texts:
                    unanswered.append(number)
                yield (
                    number,
                    {
                        "id": asked.get("id"),
                        "title": article.get("title"),
                        "question": asked.get("question"),
                        "context": paragraph.get("context"),
                        "answers": list(dict.fromkeys(texts)),
                    },
                )
    if unanswered:
        raise DataError(
            f"{file}: each question must have an answer, but {len(unanswered)} of {number} have none, the first "
            f"of them question {unanswered[0]}. Leave the unanswerable ones out, or give them an answer, such as "
            "`unanswerable`"
        )


def _text(answer: Mapping[str, Any], file: Path, place: str) -> str:
    text = answer.get("text")
    if not isinstance(text, str):
        raise DataError(f"{file}: must have the form of SQuAD, {_FORM}, but `{place}.text` is {kind_of(text)}")
    return text


def _members(parent: Any, key: str, file: Path, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The members of a list that an object has, each with its place in the file."""
    where = f"{place}.{key}".lstrip(".")
    members = parent.get(key) if isinstance(parent, Mapping) else None
    if not isinstance(members, list):
        raise DataError(f"{file}: must have the form of SQuAD, {_FORM}, but `{where}` is no list; or write JSON Lines")
    for index, member in enumerate(members):
        if not isinstance(member, Mapping):
            raise DataError(f"{file}: must have the form of SQuAD, {_FORM}, but `{where}[{index}]` is no object")
        yield f"{where}[{index}]", member
