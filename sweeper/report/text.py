"""A text on its way into a document: one line, without what is not printable, and without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from sweeper.redaction import redacted

_CODE = re.compile(r"`([^`]+)`")
_FIGURES = re.compile(r"[\d.,:+–±×%$<>/ -]*")  # no secret is one


class Piece(NamedTuple):
    """A part of a text."""

    text: str
    is_code: bool


def plain(text: str) -> str:
    """The text in a line: what a terminal or a page would take for more than letters is a space."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in _safe(text)).split())


@lru_cache(maxsize=10_000)
def _safe(text: str) -> str:
    return text if _FIGURES.fullmatch(text) else redacted(text)


def pieces(text: str) -> Iterator[Piece]:
    """The parts of a text that are code, being between backticks, and those that are not."""
    for place, part in enumerate(_CODE.split(plain(text))):
        if part:
            yield Piece(part, place % 2 == 1)


def command(text: str) -> str:
    """A command without secrets; its lines stay."""
    return redacted(text)
