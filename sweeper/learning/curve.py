"""A learning curve: what a configuration scores with part of the training rows, and what twice the rows would buy.

Every point is trained for the same number of examples, that is of optimizer steps: a smaller part is seen more often,
not less long. With equal passes instead, a small part would also be trained for fewer steps, and a curve that rises
could mean either. What a point is counted as is the rows that its training has seen: where there are more than it has
examples, those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sweeper.learning.law import LEVEL, Forecast, forecast

FRACTIONS = (0.12, 0.25, 0.5, 1.0)
FEWEST_POINTS = 3  # a law has three parameters
OFF_THE_LAW = 2.0  # standard errors; beyond, it is said
CLEAR = 4.0  # times its lower end that the upper end of an interval may be, and still say how much


@dataclass(frozen=True)
class Point:
    """What one part of the rows gives.

    Attributes:
        rows: that it has.
        values: of the metric, one for each seed.
        row_error: the standard error of the metric for the validation rows being a sample; 0 where it has none.
    """

    rows: int
    values: tuple[float, ...]
    row_error: float

    @property
    def value(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def error(self) -> float:
        """Of the mean over seeds: of the rows, which all seeds share, and of the seeds."""
        spread = float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0
        return math.hypot(self.row_error, spread / math.sqrt(len(self.values)))


@dataclass(frozen=True)
class LearningCurve:
    """The curve of one configuration.

    Attributes:
        trial: whose configuration it is; None for the one that a search starts from.
        is_share: whether the metric is between 0 and 1, and is given in points.
        examples: that each training sees.
        points: ascending in rows; the last has all.
    """

    metric: str
    trial: int | None
    params: dict[str, Any]
    is_minimized: bool
    is_share: bool
    examples: int
    seeds: tuple[int, ...]
    points: tuple[Point, ...]

    @property
    def rows(self) -> int:
        """All training rows."""
        return self.points[-1].rows

    def seen(self, point: Point) -> int:
        """The different rows that a training of it has seen."""
        return min(point.rows, self.examples)

    @cached_property
    def forecast(self) -> Forecast | None:
        """The law, in merits; None where there are too few points, or nothing is known of their errors."""
        errors = np.array([point.error for point in self.points])
        seen = np.array([self.seen(point) for point in self.points], dtype=float)
        if len(np.unique(seen)) < FEWEST_POINTS or not errors.any():
            return None
        errors = np.maximum(errors, errors.max() / 10)  # a score of 1.0 has an error of 0, and would count for ever
        merits = np.array([self.sign * point.value for point in self.points])
        return forecast(seen, merits, errors, 1.0 if self.is_share and not self.is_minimized else math.inf)

    @property
    def sign(self) -> float:
        """What makes a value a merit, of which more is better."""
        return -1.0 if self.is_minimized else 1.0

    def sentences(self) -> list[str]:
        """What twice the rows would buy, and what is to be known of that."""
        found, noise = self.forecast, self.points[-1].error
        if found is None:
            return [f"What twice the rows would buy cannot be said: {self._why_not()}."]
        twice = f"Twice the rows ({2 * self.seen(self.points[-1]):,})"
        interval = f"between {self._amount(found.low)} and {self._amount(found.high)}{self._unit}"
        if found.high < noise:
            said = (
                f"{twice} would buy next to nothing: at most {self._amount(found.high)}{self._unit} ({LEVEL:.0%}), "
                f"less than one standard error of a score here ({self._amount(noise)}). The curve is flat within noise."
            )
        elif found.high <= CLEAR * found.low:
            said = f"{twice} would buy {self._amount(found.gain)}{self._unit}: {interval} ({LEVEL:.0%})."
        else:
            said = f"These points hardly tell what twice the rows would buy: {interval} ({LEVEL:.0%})."
        return [said, *self._reservations(found)]

    def _why_not(self) -> str:
        if any(point.error for point in self.points):
            return (
                f"it takes {FEWEST_POINTS} points of different rows, but trainings of {self.examples:,} examples see "
                f"{', '.join(f'{self.seen(point):,}' for point in self.points)}"
            )
        return f"{self.metric} has no standard error; --seeds 3 measures one"

    def _reservations(self, found: Forecast) -> list[str]:
        lines = []
        if found.misfit > OFF_THE_LAW:
            lines.append(
                f"The points are {found.misfit:.1f} standard errors off a power law, as a curve is in its steep begin, "
                "and the interval is wider for that."
            )
        if self.examples < self.rows:
            lines.append(
                f"Each training saw {self.examples:,} of the {self.rows:,} rows: longer training (train.examples, "
                "train.epochs) uses rows that are there already."
            )
        elif self.examples < 2 * self.rows:
            lines.append(
                f"Each training saw {self.examples:,} examples: with twice the rows it must be longer "
                "(train.examples, train.epochs), or it does not see them all."
            )
        return lines

    @property
    def _unit(self) -> str:
        if self.is_share:
            return f" points of {self.metric}"
        return f" of {self.metric}" + (" (less is better)" if self.is_minimized else "")

    def _amount(self, gain: float) -> str:
        return f"{100 * gain:.1f}" if self.is_share else f"{gain:.3g}"

    def as_dict(self) -> dict[str, Any]:
        """The curve as the study keeps it, with what follows from it."""
        found = self.forecast
        return {
            **{name: value for name, value in vars(self).items() if name in self.__dataclass_fields__},
            "seeds": list(self.seeds),
            "points": [
                {"rows": p.rows, "values": list(p.values), "row_error": p.row_error, "value": p.value, "error": p.error}
                for p in self.points
            ],
            "law": {name: getattr(found.law, name) for name in ("limit", "amplitude", "exponent")} if found else None,
            "misfit": found.misfit if found else None,
            "twice": {"gain": found.gain, "low": found.low, "high": found.high, "level": LEVEL} if found else None,
            "sentences": self.sentences(),
        }

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> LearningCurve:
        """The curve that a study keeps."""
        values = {name: kept[name] for name in cls.__dataclass_fields__}
        points = (Point(point["rows"], tuple(point["values"]), point["row_error"]) for point in kept["points"])
        return cls(**{**values, "seeds": tuple(kept["seeds"]), "points": tuple(points)})


def counts(rows: int, fractions: Sequence[float]) -> list[int]:
    """How many rows each fraction is, ascending; fractions that come to the same number are one."""
    return sorted({max(1, round(fraction * rows)) for fraction in fractions})
