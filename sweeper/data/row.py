"""One row of a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Row:
    """What is asked and what the answer is, and where it came from (`train.jsonl:17`).

    Attributes:
        text: what is asked, before `prompt.template`.
        label: of a classification; empty elsewhere.
        columns: all of the row, under their own names.
        answers: the reference answers, of which the first is trained on; none in a classification.
        source: the column that `text` may be cut in; empty where it may not be.
        fixed: characters at the end of `text` that are never cut.
        messages: a whole conversation, (role, content) each, where the row is one; its last is the answer.
    """

    text: str
    label: str
    place: str
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    answers: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    source: str = ""
    fixed: int = 0

    @property
    def cuttable(self) -> str:
        """The part of the text that may be cut."""
        return self.text[: len(self.text) - self.fixed] if self.source else ""

    def shortened(self, characters: int, is_from_begin: bool) -> Row:
        """The row with so many characters of what may be cut, from its begin or up to its end."""
        whole = self.cuttable
        kept = (whole[:characters] if is_from_begin else whole[len(whole) - characters :]).strip()
        text = kept + self.text[len(whole) :]
        return replace(self, text=text, columns={**self.columns, self.source: kept})

    @property
    def sha256(self) -> str:
        """A hash over what is asked and what is right: it says whether a row is the one that it was."""
        return hashlib.sha256(json.dumps([self.text, self.label, self.answers, self.messages]).encode()).hexdigest()
