"""Scores a suite: the items as tokens, and how adapters and base do them, all of a pack in the same forwards.

Items are raw text, without the chat template: what is asked is what the base can do, not how it answers users. A
question is `Question: …`, a line `Answer:` and each choice behind it. The right choice must have the highest
log-likelihood divided by its characters, which is lm-eval's `acc_norm`: longer ones would lose for their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.engine.batches import Item
from sweeper.errors import DataError
from sweeper.retention.items import Choice
from sweeper.retention.measure import Answers
from sweeper.retention.suite import Suite

if TYPE_CHECKING:  # seconds of imports, which a launcher that tokenises passages does without
    from sweeper.engine.pack import Pack

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Read:
    """One sequence that is read.

    Attributes:
        start: the place of the first token whose likelihood counts.
        characters: of the text from there on.
    """

    tokens: Tokens
    start: int
    characters: int


@dataclass(frozen=True)
class Question:
    """A question as its choices are read."""

    id: str
    choices: tuple[Read, ...]
    answer: int


@dataclass(frozen=True)
class Text:
    """A passage as it is read."""

    id: str
    read: Read


@dataclass(frozen=True)
class Encoded:
    """A suite as tokens.

    Attributes:
        left_out: questions that are longer than may be read, and texts in which there is nothing to predict.
        cut: texts of which only the beginning is read.
    """

    questions: tuple[Question, ...]
    texts: tuple[Text, ...]
    left_out: int = 0
    cut: int = 0
    sha256: str = field(default="")

    @classmethod
    def of(cls, suite: Suite, tokenizer: Any, max_tokens: int) -> Encoded:
        """Tokenises a suite, with the token that the tokenizer puts before a text, if it does.

        Raises:
            DataError: if too few items of a kind can be read.
        """
        begin = _begin(tokenizer)
        questions = [_question(choice, tokenizer, begin) for choice in suite.choices]
        short = tuple(q for q in questions if max(len(read.tokens) for read in q.choices) <= max_tokens)
        texts = [(passage.id, (*begin, *_tokens(tokenizer, passage.text))) for passage in suite.passages]
        long = sum(len(tokens) > max_tokens for _, tokens in texts)
        readable = tuple(Text(name, Read(t[:max_tokens], 1, 0)) for name, t in texts if len(t) > 1)
        for key, found, given in (("choices", short, suite.choices), ("passages", readable, suite.passages)):
            if given and len(found) < 2:
                raise DataError(
                    f"retention.{key}: two items or more must be readable in retention.max_tokens={max_tokens}, but "
                    f"{len(found)} of {len(given)} are; raise it, or retention.{key}=null"
                )
        left_out = len(questions) - len(short) + len(texts) - len(readable)
        return cls(short, readable, left_out, long, suite.sha256)

    def take(self, questions: Sequence[int], texts: Sequence[int]) -> Encoded:
        """Some of the items alone."""
        return Encoded(tuple(self.questions[i] for i in questions), tuple(self.texts[i] for i in texts))

    @cached_property
    def reads(self) -> list[Read]:
        """Every sequence: the choices of all questions, then the texts."""
        return [read for q in self.questions for read in q.choices] + [text.read for text in self.texts]

    @property
    def items(self) -> int:
        """Questions and texts."""
        return len(self.questions) + len(self.texts)

    @property
    def longest(self) -> int:
        """The tokens of the longest sequence."""
        return max(len(read.tokens) for read in self.reads)

    @property
    def chance(self) -> float | None:
        """The accuracy of guesses; None where there are no questions."""
        shares = [1 / len(q.choices) for q in self.questions]
        return sum(shares) / len(shares) if shares else None

    def answers(self, likelihoods: Sequence[float]) -> Answers:
        """What one model does, by the log-likelihoods of all that is read."""
        correct, rest = [], list(likelihoods)
        for question in self.questions:
            own, rest = rest[: len(question.choices)], rest[len(question.choices) :]
            each = [value / read.characters for value, read in zip(own, question.choices, strict=True)]
            # A model that is none any more may have nothing that is finite: it then chooses nothing.
            is_known = bool(np.isfinite(each).all())
            correct.append(float(is_known and int(np.argmax(each)) == question.answer))
        tokens = [len(text.read.tokens) - text.read.start for text in self.texts]
        return Answers.of(correct, [-value for value in rest], tokens)


def score(pack: Pack, slots: Sequence[int], suite: Encoded, with_adapters: bool = True) -> list[Answers]:
    """Scores the adapters of `slots`, all in the same forwards."""
    likelihoods, count = read_by(pack, slots, suite.reads, with_adapters), len(suite.reads)
    return [suite.answers(likelihoods[count * index : count * (index + 1)]) for index in range(len(slots))]


def read_by(pack: Pack, slots: Sequence[int], reads: Sequence[Read], with_adapters: bool = True) -> list[float]:
    """The log-likelihood of each sequence with the adapter of each slot, slot after slot."""
    items = [Item(slot, read.tokens) for slot in slots for read in reads]
    return pack.likelihoods(items, [read.start for _ in slots for read in reads], with_adapters)


def _question(choice: Choice, tokenizer: Any, begin: Tokens) -> Question:
    """A question with each of its choices behind it, tokenised together, as lm-eval does it."""
    asked = choice.question if choice.is_whole else f"Question: {choice.question.strip()}\nAnswer:"
    start = len(begin) + len(_tokens(tokenizer, asked))
    reads = []
    for text in choice.choices:
        tokens = (*begin, *_tokens(tokenizer, asked + (text if choice.is_whole else f" {text.strip()}")))
        # Where the last token of the question grows into the choice, the choice begins with it.
        reads.append(Read(tokens, min(start, len(tokens) - 1), len(text.strip())))
    return Question(choice.id, tuple(reads), choice.answer)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _begin(tokenizer: Any) -> Tokens:
    """The token that the tokenizer puts before a text; none where it does not."""
    first = tokenizer("a")["input_ids"][:1]
    return tuple(first) if first and first[0] == tokenizer.bos_token_id else ()
