"""What a message may say of a row: its kind and size, the names of columns and labels, and never its text.

Messages go to terminals, to the logs of clusters and into bug reports; a row stays in its file, whose line they name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MAX_NAME = 40  # characters of a column's or a label's name; what is longer may be a text
_WINDOW = 8  # characters of a text that a message may not have in a row
_SHORTEST = 3  # a text of fewer characters would be found in every message


def kind_of(value: Any) -> str:
    """A value without what it says: `a text of 137 characters`."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters" if value.strip() else "an empty text"
    if isinstance(value, Mapping):
        return f"an object with {len(value)} fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return f"the value {value}"
    return "a number" if isinstance(value, int | float) else f"a value of type {type(value).__name__}"


def name_of(value: object) -> str:
    """A name as it is; its kind where it is so long, or so many lines, that it may be a text."""
    text = str(value)
    return text if len(text) <= MAX_NAME and text.isprintable() else f"({kind_of(text)})"


def word_of(value: object) -> str:
    """One word as it is; the kind of anything else."""
    text = str(value)
    return text if len(text) <= MAX_NAME and text.isidentifier() else f"({kind_of(text)})"


def without_texts(error: BaseException, texts: Any) -> str:
    """An error's message; its kind alone where it quotes one of the texts, whole or in part."""
    return "its message quotes the row and is not shown" if _quotes(str(error), texts) else str(error)


def quoted(piece: str, texts: Any) -> str:
    """A piece of a rendering; its kind where some of it is from one of the texts."""
    return kind_of(piece) if _quotes(piece, texts) else repr(piece)


def _quotes(message: str, texts: Any) -> bool:
    return any(
        text[start : start + _WINDOW] in message
        for text in map(str.strip, _strings(texts))
        if len(text) >= _SHORTEST
        for start in range(max(1, len(text) - _WINDOW + 1))
    )


def _strings(values: Any) -> Iterable[str]:
    """All texts in a value, those that a message would write with escapes in that form too."""
    if isinstance(values, str):
        yield from {values, repr(values)[1:-1]}
    elif isinstance(values, Mapping):
        for item in values.values():
            yield from _strings(item)
    elif isinstance(values, Iterable) and not isinstance(values, bytes):
        for item in values:
            yield from _strings(item)
