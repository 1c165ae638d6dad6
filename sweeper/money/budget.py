"""What is still to be done, in device seconds, and what of it a budget allows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.config.schema import BudgetSection
from sweeper.money.pace import Pace
from sweeper.money.price import HOUR_S
from sweeper.trial import Rhythm, TrialParams

SAFETY = 1.1  # times what is foretold is reserved: a trial that would not come to its end is money lost
TESTED = 2  # adapters on the test split, winner and runner-up; the base comes on top


@dataclass(frozen=True)
class Sizes:
    """What the trials of a study read.

    Attributes:
        row_tokens: the mean of a training row, prompt and answer.
        passage_tokens: the mean of a passage of replay; 0 without.
        rows: validation rows of an evaluation.
        items: retention items of an evaluation.
        items_in_full: of the whole suite, which the best read once.
        confirmation_rows: rows that the search leaves alone.
        test_rows: rows of the test split.
    """

    row_tokens: float
    passage_tokens: float
    rows: int
    items: int
    items_in_full: int
    confirmation_rows: int
    test_rows: int


@dataclass(frozen=True)
class Workload:
    """One study's work, at the pace of one device."""

    pace: Pace
    sizes: Sizes

    def trial_s(self, params: TrialParams, rhythm: Rhythm, evaluations_done: int = 0, together: float = 1.0) -> float:
        """What a trial takes from an evaluation on to its end, with what it keeps of the base in full.

        Args:
            together: how many train at once: they share what a step or a scoring takes whatever its size.
        """
        count = rhythm.evaluations - evaluations_done
        training_s = self._training_s(params, rhythm, together) * count / rhythm.evaluations
        return training_s + self._evaluations_s(count, together) + self.pace.scoring_s(0, self.sizes.items_in_full)

    def confirming_s(self, params: TrialParams, rhythm: Rhythm, seeds: int, together: float = 1.0) -> float:
        """What confirming one configuration takes: a training for each seed, each scored, and its own adapter too."""
        training_s = self._training_s(params, rhythm, together) + self._evaluations_s(rhythm.evaluations, together)
        return seeds * training_s + self.pace.scoring_s((seeds + 1) * self.sizes.confirmation_rows, times=seeds + 1)

    def testing_s(self) -> float:
        """What the test split takes, once."""
        return self.pace.scoring_s((TESTED + 1) * self.sizes.test_rows, times=TESTED + 1)

    def _training_s(self, params: TrialParams, rhythm: Rhythm, together: float) -> float:
        tokens = tokens_of(params, rhythm, self.sizes.row_tokens, self.sizes.passage_tokens)
        return self.pace.training_s(rhythm.total_steps / together, tokens)

    def _evaluations_s(self, count: int, together: float) -> float:
        return self.pace.scoring_s(self.sizes.rows * count, self.sizes.items * count, count / together)


def tokens_of(params: TrialParams, rhythm: Rhythm, row_tokens: float, passage_tokens: float) -> float:
    """What a trial is trained on, with its share of replayed passages; from the means of both."""
    examples = rhythm.examples_at(rhythm.total_steps)
    return examples * row_tokens + examples * params.replay / (1 - params.replay) * passage_tokens


@dataclass(frozen=True)
class Spent:
    """What a study has taken so far, or would take."""

    seconds: float
    usd: float | None  # None: there is no price

    def plus(self, seconds: float, usd_per_second: float | None) -> Spent:
        more = None if self.usd is None or usd_per_second is None else self.usd + seconds * usd_per_second
        return Spent(self.seconds + seconds, more)


def exceeded(budget: BudgetSection, spent: Spent) -> str | None:
    """The key of the limit that so much reaches; None where it is within all of them."""
    if budget.usd is not None and spent.usd is not None and spent.usd >= budget.usd:
        return "budget.usd"
    if budget.hours is not None and spent.seconds >= budget.hours * HOUR_S:
        return "budget.hours"
    return None


def in_words(budget: BudgetSection, key: str, spent: Spent) -> str:
    """Such as `$0.412 of budget.usd=0.5`."""
    if key == "budget.usd":
        return f"${spent.usd:.4g} of budget.usd={budget.usd:g}"
    return f"{spent.seconds / HOUR_S:.4g} device hours of budget.hours={budget.hours:g}"
