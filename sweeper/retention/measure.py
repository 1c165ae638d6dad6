"""What is computed of the scores of a suite: accuracy, perplexity, and what of them an adapter loses.

A *drop* is paired: the same items, answered by the base and with the adapter. Where multiple choice constrains, it is
the accuracy that is lost. Where perplexity does, it is 1 − base / adapter, the share that is lost of the probability
of a token (its geometric mean): it is between 0 and 1 for whatever is worse than the base, however wrecked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sweeper.uncertainty import ERROR_DRAWS, share_error

Kind = Literal["accuracy", "perplexity"]
MEASURES: tuple[Kind, ...] = ("accuracy", "perplexity")
PREFIX = "retention/"
FULL = f"{PREFIX}full_"  # of the whole suite
CONSTRAINT = "retention"
CERTAIN = 2.0  # standard errors
_WORST_NLL = 50.0  # nats for a token: what a model that is no model any more has, whose numbers may not be finite


@dataclass(frozen=True)
class Answers:
    """How one model does the items of a suite.

    Attributes:
        correct: `(choices,)`: 1 where the right one is the likeliest, else 0.
        nll: `(passages,)`: the negative log-likelihood of each, in nats, summed over its tokens.
        tokens: `(passages,)`: the tokens that it is summed over.
    """

    correct: NDArray[np.float64]
    nll: NDArray[np.float64]
    tokens: NDArray[np.float64]

    @classmethod
    def of(cls, correct: Sequence[float], nll: Sequence[float], tokens: Sequence[int]) -> Answers:
        """From plain numbers; a likelihood that is not finite is taken for the worst."""
        counts = np.asarray(tokens, dtype=np.float64)
        worst = counts * _WORST_NLL
        found = np.asarray(nll, dtype=np.float64)
        bounded = np.minimum(np.where(np.isfinite(found), found, worst), worst)
        return cls(np.asarray(correct, dtype=np.float64), bounded, counts)

    def take(self, choices: Sequence[int], passages: Sequence[int]) -> Answers:
        """Those of some items alone."""
        at, rows = np.asarray(choices, dtype=np.intp), np.asarray(passages, dtype=np.intp)
        return Answers(self.correct[at], self.nll[rows], self.tokens[rows])

    @property
    def accuracy(self) -> float | None:
        return float(self.correct.mean()) if len(self.correct) else None

    @property
    def perplexity(self) -> float | None:
        return math.exp(self.nll.sum() / self.tokens.sum()) if len(self.nll) else None

    def values(self) -> dict[str, float]:
        """Accuracy and perplexity, as far as there are items for them."""
        found = {"accuracy": self.accuracy, "perplexity": self.perplexity}
        return {name: value for name, value in found.items() if value is not None}


def constraining(base: Answers, chance: float | None) -> Kind | None:
    """What a base can lose: accuracy where it beats chance by more than two standard errors, else likelihood.

    Args:
        chance: the accuracy of guesses.
    """
    accuracy, count = base.accuracy, len(base.correct)
    if accuracy is None or chance is None or accuracy - chance <= CERTAIN * share_error(accuracy, count):
        return "perplexity" if len(base.nll) else None
    return "accuracy"


def noise_floor(base: Answers, kind: Kind) -> float:
    """How far the base's own score is off for the items being a sample, by a bootstrap over them: one standard error.

    A smaller drop could come from which items they are.
    """
    generator = np.random.default_rng(0)
    if kind == "accuracy":
        drawn = generator.choice(base.correct, (ERROR_DRAWS, len(base.correct)))
        return float(drawn.mean(1).std(ddof=1))
    rows = generator.integers(len(base.nll), size=(ERROR_DRAWS, len(base.nll)))
    means = base.nll[rows].sum(1) / base.tokens[rows].sum(1)
    return float((1 - np.exp(means.mean() - means)).std(ddof=1))


def drop(base: Answers, adapted: Answers, kind: Kind) -> tuple[float, float]:
    """What an adapter loses against the base on the same items, and the standard error of that difference."""
    if kind == "accuracy":
        lost = base.correct - adapted.correct
        return float(lost.mean()), float(lost.std(ddof=1) / math.sqrt(len(lost)))
    more = adapted.nll - base.nll
    rate = float(more.sum() / base.tokens.sum())
    # Passages differ in length: the error is that of a ratio of two sums (Cochran, Sampling Techniques, 2.11).
    rest = more - rate * base.tokens
    count = len(more)
    error = math.sqrt(float((rest**2).sum()) / (count * (count - 1))) / float(base.tokens.mean())
    kept = math.exp(-max(rate, -_WORST_NLL))
    return 1 - kept, kept * error


@dataclass(frozen=True)
class Yardstick:
    """What adapters are held against: the base's answers to some items, and what may be lost of them.

    Attributes:
        kind: what constrains; None: nothing does, for the base can lose nothing that the items show.
        floor: the noise of the base's own score.
        tolerance: the most that may be lost: what the study allows, or the noise where that is more.
    """

    base: Answers
    kind: Kind | None
    floor: float
    tolerance: float

    @classmethod
    def of(cls, base: Answers, kind: Kind | None, max_drop: float, max_rise: float) -> Yardstick:
        """
        Args:
            max_drop: of the accuracy.
            max_rise: of the perplexity, as a share of the base's.
        """
        if kind is None:
            return cls(base, None, 0.0, 0.0)
        allowed = max_drop if kind == "accuracy" else 1 - 1 / (1 + max_rise)
        floor = noise_floor(base, kind)
        return cls(base, kind, floor, max(allowed, floor))

    def values(self, adapted: Answers) -> dict[str, float]:
        """What is recorded of an evaluation, under names of its own."""
        found = adapted.values()
        if self.kind is not None:
            found["drop"], found["drop_se"] = drop(self.base, adapted, self.kind)
        return {PREFIX + name: value for name, value in found.items()}

    def excess(self, values: dict[str, float], prefix: str = PREFIX) -> float:
        """How far an evaluation is above the tolerance: the constraint, which holds where it is not above zero.

        Args:
            prefix: of the names of the values.
        """
        return values[f"{prefix}drop"] - self.tolerance if self.kind is not None else 0.0

    def is_wrecked(self, values: dict[str, float]) -> bool:
        """Whether an evaluation has certainly lost too much: by more than two standard errors."""
        return self.kind is not None and self.excess(values) > CERTAIN * values[f"{PREFIX}drop_se"]

    def loss_in_words(self, values: dict[str, float]) -> str:
        """What an evaluation has lost, where something constrains."""
        lost, error = values[f"{PREFIX}drop"], values[f"{PREFIX}drop_se"]
        return f"a drop of {lost:.3f} ± {error:.3f} in {self.kind}, of which {self.tolerance:.3f} is tolerated"
