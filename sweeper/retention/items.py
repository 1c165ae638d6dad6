"""What a retention suite is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A question in multiple choice.

    Attributes:
        answer: the index of the right choice.
        is_whole: whether the question is all that stands before a choice, as it is to be read, and so each choice.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    id: str
    is_whole: bool = False


@dataclass(frozen=True)
class Passage:
    """A piece of general text."""

    text: str
    id: str
