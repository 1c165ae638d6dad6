"""Replay: passages of general text that train beside a task's rows, so that a base keeps what it could do before.

A passage is raw text, as retention reads it, and all of it is trained on. In the loss it counts as much as a row of the
task does on average: by its tokens, a few passages would weigh more than a whole batch of short answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.schema import Config
from sweeper.config.space import bounds
from sweeper.data.example import Example
from sweeper.errors import DataError
from sweeper.quoting import kind_of, name_of
from sweeper.retention import suite
from sweeper.retention.items import Passage
from sweeper.retention.scoring import Encoded
from sweeper.retention.suite import Suite

SETTING = "train.replay_text"


@dataclass(frozen=True)
class Replay:
    """The passages of a study.

    Attributes:
        cut: of how many only the beginning is read.
        sha256: of their texts.
    """

    examples: tuple[Example, ...]
    cut: int
    sha256: str

    @classmethod
    def of(cls, config: Config, tokenizer: Any, rows: Sequence[Example]) -> Replay:
        """Reads and tokenises the passages; longer ones are cut to `prompt.max_tokens`.

        Args:
            rows: the training rows of the task.

        Raises:
            DataError: as `read` does.
        """
        passages = read(config)
        encoded = Encoded.of(Suite(passages=tuple(passages)), tokenizer, config.prompt.max_tokens)
        each = sum(row.supervised_tokens * row.weight for row in rows) / len(rows)
        texts = [text.read.tokens for text in encoded.texts]
        examples = [Example(tokens[:1], tokens[1:], weight=each / (len(tokens) - 1)) for tokens in texts]
        return cls(tuple(examples), encoded.cut, encoded.sha256)

    def notes(self, config: Config) -> list[str]:
        """What a person should know of it, a line each."""
        if not self.cut:
            return []
        return [
            f"{SETTING}: of {self.cut} of {len(self.examples)} passages, only the first {config.prompt.max_tokens} "
            "tokens are read (prompt.max_tokens)"
        ]

    def hold_to(self, known_sha256: str | None) -> None:
        """Refuses other passages than those that a study was begun with.

        Raises:
            DataError: if they are others.
        """
        if known_sha256 not in (None, self.sha256):
            raise DataError(
                f"{SETTING}: a study keeps the passages that it was begun with, but their sha256 was "
                f"{known_sha256[:12]}… and is {self.sha256[:12]}…; put the file back, or study.name=NEW starts another"
            )


def has_replay(config: Config) -> bool:
    """Whether any trial of a study may train on general text."""
    searched = config.search.space.get("replay")
    return config.train.replay > 0 or (searched is not None and bounds(searched)[1] > 0)


def read(config: Config) -> list[Passage]:
    """The passages that a study names, by place.

    Raises:
        DataError: naming the file and line of what is wrong, or where retention is measured on one of them.
    """
    rows = suite.read_rows(SETTING, config.train.replay_text, "replay")
    passages = [Passage(_text(place, row), place) for place, row in rows]
    _check_apart(passages, suite.load(config.retention).passages)
    return passages


def _text(place: str, row: dict[str, Any]) -> str:
    text = row.get("text")
    if isinstance(text, str) and len(text.split()) > 1:
        return text
    found = "one word" if isinstance(text, str) and text.strip() else kind_of(text) if "text" in row else "missing"
    there = ", ".join(map(name_of, row)) or "nothing"
    raise DataError(f"{place}: `text` must be a text of two words or more, but is {found}; the row has {there}")


def _check_apart(passages: Sequence[Passage], scored: Sequence[Passage]) -> None:
    """What is trained on says nothing of what is forgotten."""
    measured = {" ".join(passage.text.split()): passage.id for passage in scored}
    both = [
        (passage.id, measured[text]) for passage in passages if (text := " ".join(passage.text.split())) in measured
    ]
    if both:
        place, name = both[0]
        raise DataError(
            f"{SETTING} must have none of the texts that retention is measured on, but {len(both)} of "
            f"{len(passages)} are among retention.passages: {place} is {name}"
        )
