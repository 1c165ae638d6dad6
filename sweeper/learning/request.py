"""What learning curve is asked for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from sweeper.errors import ConfigError
from sweeper.learning.curve import FEWEST_POINTS, FRACTIONS, LearningCurve, counts

MOST_SEEDS = 100
PER_MILLE = 1000  # fractions are told apart to this


@dataclass(frozen=True)
class Request:
    """Parts of the training rows, and how often each is trained on."""

    fractions: tuple[float, ...] = FRACTIONS
    seeds: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        values = json.loads(text)
        return cls(tuple(values["fractions"]), values["seeds"])

    @classmethod
    def of(cls, fractions: str | None, seeds: int | None, has_error: bool) -> Request:
        """What a person asks for.

        Args:
            fractions: numbers between commas; None: the usual ones.
            seeds: None: as many as an error of the points takes.
            has_error: whether the metric has a standard error by itself.

        Raises:
            ConfigError: if no curve can be had from that.
        """
        parsed = FRACTIONS if fractions is None else _parsed(fractions)
        if seeds == 1 and not has_error:
            raise ConfigError("--seeds: must be 2 or more where the metric has no standard error, but got 1")
        return cls(parsed, seeds or (1 if has_error else 3))

    def is_met_by(self, curve: LearningCurve) -> bool:
        """Whether a curve is what is asked for."""
        is_same = [point.rows for point in curve.points] == counts(curve.rows, self.fractions)
        return is_same and len(curve.seeds) == self.seeds


def side_number(trial: int | None, seed_index: int, rows: int, total: int) -> int:
    """A side run's number: whose configuration, which seed, what part of the rows."""
    whose = 0 if trial is None else trial + 1
    return (whose * MOST_SEEDS + seed_index) * PER_MILLE + round(PER_MILLE * rows / total) - 1


def side_trial(number: int) -> int | None:
    """Whose configuration a side run of that number has."""
    whose = number // (MOST_SEEDS * PER_MILLE)
    return whose - 1 if whose else None


def _parsed(text: str) -> tuple[float, ...]:
    rule = f"--fractions: must be at least {FEWEST_POINTS} different numbers above 0 and up to 1, with 1 among them"
    try:
        found = sorted({round(float(part), 3) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"{rule}, such as 0.1,0.3,1, but got {text!r}") from None
    if len(found) < FEWEST_POINTS or not all(0 < one <= 1 for one in found) or 1 not in found:
        raise ConfigError(f"{rule} (to three decimals), such as 0.1,0.3,1, but got {text!r}")
    return tuple(found)
