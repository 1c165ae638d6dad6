"""How much better B is than A by a metric: each with its standard error, and the difference with its interval.

Both are scored on the same drawn rows (`sweeper.tasks.resampled`), so that rows that are hard for both cancel out. What
kept predictions have in them needs neither texts nor a model; other metrics are computed from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from sweeper.comparison.paired import Pair, RightWrong
from sweeper.config.schema import Config
from sweeper.config.teaching import METRICS
from sweeper.custom import own
from sweeper.data.row import Row
from sweeper.errors import StoreError
from sweeper.mistakes.kept import HASHED, Kept
from sweeper.paths import StudyPaths
from sweeper.search.choice import LEAST_DRAWS, TAILS
from sweeper.tasks.draws import Array, macro_f1, macro_f1_error, times
from sweeper.uncertainty import mean_error

DRAWS = 2000
SEED = 0
SHARES = ("accuracy", "exact_match")  # of rows that are right, of which McNemar's exact test is too
OF_LABELS, WRITTEN = ("accuracy", "macro_f1"), ("exact_match", "token_f1")  # what kept predictions give


class Verdict(StrEnum):
    """How B is to A; HIGHER and LOWER where nobody says which is better."""

    BETTER, WORSE, ALIKE, HIGHER, LOWER = "better", "worse", "alike", "higher", "lower"


@dataclass(frozen=True)
class Score:
    """A metric of one side.

    Attributes:
        error: its standard error; None where it has none.
        draws: `(draws,)`: the same on rows that are drawn again.
    """

    value: float
    error: float | None
    draws: Array


@dataclass(frozen=True)
class Difference:
    """What B has more than A.

    Attributes:
        low, high: its interval of 95 %; None where the metric has no value on most draws.
        is_minimized: whether less is better; None where that is not known.
        is_contested: whether the interval leaves zero out, but the exact test says that it may be chance.
    """

    metric: str
    a: Score
    b: Score
    low: float | None
    high: float | None
    is_minimized: bool | None
    is_contested: bool = False

    @classmethod
    def of(
        cls, metric: str, a: Score, b: Score, is_minimized: bool | None, right_wrong: RightWrong | None = None
    ) -> Difference:
        """Compares two scores on the same draws.

        Args:
            right_wrong: of a share of right rows, the exact test: of few rows that differ, a bootstrap is too sure.
        """
        found = b.draws - a.draws
        found = found[np.isfinite(found)]
        low, high = map(float, np.percentile(found, TAILS)) if len(found) >= LEAST_DRAWS else (None, None)
        leaves_out_zero = low is not None and high is not None and (low > 0 or high < 0)
        is_contested = leaves_out_zero and right_wrong is not None and not right_wrong.is_sure
        return cls(metric, a, b, low, high, is_minimized, is_contested)

    @property
    def value(self) -> float:
        return self.b.value - self.a.value

    @property
    def verdict(self) -> Verdict:
        if self.low is None or self.high is None or self.low <= 0 <= self.high or self.is_contested:
            return Verdict.ALIKE
        is_higher = self.low > 0
        if self.is_minimized is None:
            return Verdict.HIGHER if is_higher else Verdict.LOWER
        return Verdict.BETTER if is_higher is not self.is_minimized else Verdict.WORSE

    def as_dict(self) -> dict[str, Any]:
        return {
            "a": self.a.value,
            "a_se": self.a.error,
            "b": self.b.value,
            "b_se": self.b.error,
            "difference": self.value,
            "low": self.low,
            "high": self.high,
            "is_minimized": self.is_minimized,
            "verdict": self.verdict.value,
        }


def is_of_kept(metric: str, pairs: Sequence[Pair]) -> bool:
    """Whether what is kept of the rows is enough for a metric of sweeper's."""
    return metric in (WRITTEN if pairs[0].a.truth is None else OF_LABELS)


def from_kept(metric: str, pairs: Sequence[Pair]) -> tuple[Score, Score]:
    """The metric of both, from what is kept of the rows."""
    counts = times(len(pairs), DRAWS, SEED)
    a, b = (_kept_score(metric, side, counts) for side in ([pair.a for pair in pairs], [pair.b for pair in pairs]))
    return a, b


def _kept_score(metric: str, side: Sequence[Kept], counts: Array) -> Score:
    if metric == "macro_f1":
        truth, said = [str(one.truth) for one in side], [one.prediction for one in side]
        [value] = macro_f1(np.ones((1, len(side))), truth, said)
        return Score(float(value), macro_f1_error(sorted(set(truth)), truth, said), macro_f1(counts, truth, said))
    by_row = [float(one.is_correct if metric in SHARES else one.token_f1 or 0.0) for one in side]
    return Score(float(np.mean(by_row)), mean_error(by_row), counts @ np.asarray(by_row) / len(side))


def from_rows(
    metric: str, pairs: Sequence[Pair], rows: dict[str, Row], config: Config, paths: StudyPaths
) -> tuple[Score, Score]:
    """The metric of both, from the rows: one of overlap, or the user's own.

    Args:
        rows: by their hash.
        config: of the study whose task and metric are taken.

    Raises:
        StoreError: if there is a row or an answer without its text.
        CustomCodeError: if the user's own code raises.
    """
    from sweeper.tasks.resampled import Resampler  # loads a model library, which the kept metrics do not need
    from sweeper.tasks.task import scoring_task

    lacking = sum(pair.a.sha256 not in rows for pair in pairs)
    if lacking:
        raise StoreError(
            f"{metric} is computed from the rows' texts, but those of {lacking} of {len(pairs)} rows are not in the "
            f"data of study {paths.name!r} any more"
        )
    if any(one.prediction.startswith(HASHED) for pair in pairs for one in (pair.a, pair.b)):
        raise StoreError(
            f"{metric} is computed from the answers' texts, of which an export keeps hashes alone; "
            "name its trial instead, as STUDY:N, or take --metric token_f1"
        )
    found = [rows[pair.a.sha256] for pair in pairs]
    brought = own.load(config, paths.code)
    task = scoring_task(config.task, brought.task, brought.metric, config.data.columns.label)
    resampler = Resampler(task, metric, found, SEED, metric in METRICS[config.task.name])

    def score(texts: list[str]) -> Score:
        resampled, error = resampler.score(texts), task.score(found, texts).as_dict().get(f"{metric}_se")
        is_known = error is not None and math.isfinite(error)
        return Score(resampled.value, error if is_known else None, resampled.draws)

    return score([pair.a.prediction for pair in pairs]), score([pair.b.prediction for pair in pairs])
