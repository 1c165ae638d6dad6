"""Generation: greedy decoding up to the end of the turn, then exact match and token F1.

Both are SQuAD's (Rajpurkar et al., arXiv:1606.05250; evaluate-v2.0.py): texts are compared in lower case, without
punctuation, articles and superfluous white space, with the reference answer that fits best. Where nothing is left of
either, token F1 is 1 if nothing is left of both: what is an exact match is never less than right.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sweeper.tasks.task import Scores

from sweeper.data.row import Row
from sweeper.engine.batches import Item
from sweeper.engine.pack import Pack
from sweeper.trial import Prediction
from sweeper.uncertainty import mean_error

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """SQuAD's normalisation."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(reference: str, prediction: str) -> float:
    """The harmonic mean of precision and recall over the words of both, normalised."""
    wanted, given = normalised(reference).split(), normalised(prediction).split()
    if not wanted or not given:
        return float(wanted == given)
    common = (Counter(wanted) & Counter(given)).total()
    return 2 * common / (len(wanted) + len(given))


def row_scores(references: Sequence[str], text: str) -> tuple[float, float]:
    """Exact match and token F1 of one written answer, with the reference that fits best."""
    exact = any(normalised(reference) == normalised(text) for reference in references)
    return float(exact), max(token_f1(reference, text) for reference in references)


@dataclass(frozen=True)
class GenerationScores:
    """How written answers compare with the reference answers; each metric with its standard error.

    The error is that of a mean over rows that are a sample, with two rows that are right and two that are wrong added
    (for exact match that is Agresti's and Coull's), so that it is not zero where all rows are alike.
    """

    exact_match: float
    token_f1: float
    exact_match_se: float
    token_f1_se: float

    @classmethod
    def of(cls, truth: Sequence[Sequence[str]], predictions: Sequence[str]) -> GenerationScores:
        rows = [row_scores(references, text) for references, text in zip(truth, predictions, strict=True)]
        exact, f1 = [row[0] for row in rows], [row[1] for row in rows]
        return cls(float(np.mean(exact)), float(np.mean(f1)), mean_error(exact), mean_error(f1))

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class Generation:
    """Writes answers.

    Args:
        answer: turns the tokens of an answer into text.
        max_new_tokens: a written answer ends there at the latest.
        end: the token that ends it.
    """

    labels: list[str] = []  # noqa: RUF012 (there are none)

    def __init__(self, answer: Callable[[Sequence[int]], str], max_new_tokens: int, end: int) -> None:
        self._answer = answer
        self._end = end
        self.room_tokens: int | None = max_new_tokens

    def predict(
        self, pack: Pack, slots: Sequence[int], prompts: Sequence[tuple[int, ...]], with_adapters: bool = True
    ) -> list[list[Prediction]]:
        """For each of `slots`, a text for each prompt; all slots share each forward."""
        items = [Item(slot, prompt) for slot in slots for prompt in prompts]
        written = pack.generate(items, self.room_tokens or 1, [self._end], with_adapters)
        texts = [Prediction(self._answer(tokens), math.exp(likelihood)) for tokens, likelihood in written]
        return [texts[place * len(prompts) : (place + 1) * len(prompts)] for place in range(len(slots))]

    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Scores:
        return GenerationScores.of([row.answers for row in rows], predictions)

    def judged(self, row: Row, prediction: str) -> dict[str, Any]:
        exact, f1 = row_scores(row.answers, prediction)
        return {"is_correct": bool(exact), "token_f1": round(f1, 6)}
