"""One row of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """What is asked and what the answer is, and where it came from (`train.jsonl:17`).

    Attributes:
        text: what is asked, before `prompt.template`.
        label: of a classification; empty elsewhere.
        columns: all of the row, under their own names.
        answers: the reference answers, of which the first is trained on; none in a classification.
        messages: a whole conversation, (role, content) each, where the row is one; its last is the answer.
    """

    text: str
    label: str
    place: str
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    answers: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def truth(self) -> Any:
        """What a prediction is compared with."""
        return self.answers or self.label
