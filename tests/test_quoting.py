from __future__ import annotations

from typing import Any

import pytest

from sweeper.quoting import kind_of, name_of, quoted, without_texts

TEXT = "My card number is 4111, please help"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (TEXT, "a text of 35 characters"),
        (" ", "an empty text"),
        ([TEXT], "a list of 1"),
        ({"a": TEXT}, "an object with 1 fields"),
        (None, "the value None"),
        (True, "the value True"),
        (4111, "a number"),
        (b"4111", "a value of type bytes"),
    ],
)
def test_a_value_is_said_without_what_it_says(value: Any, words: str) -> None:
    assert kind_of(value) == words


def test_a_name_is_shown_unless_it_may_be_a_text() -> None:
    assert name_of("billing error") == "billing error"
    assert name_of(3) == "3"
    assert name_of(TEXT * 2) == "(a text of 70 characters)"
    assert name_of("two\nlines") == "(a text of 9 characters)"


def test_a_message_that_has_a_part_of_a_text_is_not_shown() -> None:
    row = {"body": TEXT, "more": [{"content": "naïve\tcafé"}], "short": "a"}
    assert without_texts(ValueError("'body' is undefined at a place"), row) == "'body' is undefined at a place"
    for message in (f"no attribute {TEXT!r}", "no attribute 'My card n…'", r"no attribute 'naïve\tcafé'"):
        assert without_texts(ValueError(message), row) == "its message quotes the row and is not shown"


def test_a_piece_of_a_template_is_shown() -> None:
    assert quoted("<|user|>\n", [TEXT]) == r"'<|user|>\n'"
    assert quoted("<|user|>\nMy card number is", [TEXT]) == "a text of 26 characters"
