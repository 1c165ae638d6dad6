"""A training row as the engine sees it: tokens, and which of them the loss is on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Example:
    """One training row as tokens.

    Attributes:
        prompt: the tokens before the first supervised one.
        answer: the tokens from there to the last supervised one.
        spans: the supervised parts of `answer`, each from its first token to behind its last one, ascending; none
            where all of it is supervised.
        weight: of its loss, in the mean over a batch.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.answer

    @property
    def supervised(self) -> list[int]:
        """The places of the supervised tokens in `answer`."""
        if not self.spans:
            return list(range(len(self.answer)))
        return [place for begin, end in self.spans for place in range(begin, end)]

    @property
    def supervised_tokens(self) -> int:
        return sum(end - begin for begin, end in self.spans) if self.spans else len(self.answer)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    @classmethod
    def masked(cls, tokens: tuple[int, ...], spans: list[tuple[int, int]]) -> Example:
        """Of a whole rendering and the spans of its tokens that are supervised; what follows the last is left out."""
        begin, end = spans[0][0], spans[-1][1]
        parts = tuple((first - begin, last - begin) for first, last in spans) if len(spans) > 1 else ()
        return cls(tokens[:begin], tokens[begin:end], parts)


def balanced(examples: Sequence[Example], labels: Sequence[str]) -> list[Example]:
    """Examples weighted so that each label counts the same in all; the weights are 1 on average."""
    counts = Counter(labels)
    return [
        replace(example, weight=len(labels) / (len(counts) * counts[label]))
        for example, label in zip(examples, labels, strict=True)
    ]
