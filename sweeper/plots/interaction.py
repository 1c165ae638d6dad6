"""What two searched parameters do together: the metric by both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.errors import StoreError, unknown
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason

MOST_VALUES = 12  # of a parameter that is told apart by colour, or has a row of cells
FULL = 0.5  # of a table's cells; where more have trials, values recur


@dataclass(frozen=True)
class Cell:
    """The complete trials with one pair of values.

    Attributes:
        values: what each scored.
        row_error: the standard error of the metric for the validation rows being a sample, on average; 0 without any.
        diverged: how many others diverged.
    """

    values: tuple[float, ...]
    row_error: float
    diverged: int

    @property
    def value(self) -> float | None:
        return sum(self.values) / len(self.values) if self.values else None

    @property
    def error(self) -> float:
        """Of the mean: of the rows, which all trials share, and of the trials."""
        spread = float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0
        return math.hypot(self.row_error, spread / math.sqrt(max(1, len(self.values))))


@dataclass(frozen=True)
class Interaction:
    """The metric by two parameters.

    Attributes:
        others: further parameters that differ between the trials, so that a cell is a mean over them.
        unended: trials without a value that have not diverged; they are in no cell.
        trials: that have both parameters, and have ended.
    """

    metric: str
    is_minimized: bool
    x: str
    y: str
    cells: dict[tuple[Any, Any], Cell]
    others: list[str]
    unended: int
    trials: tuple[TrialView, ...]

    @classmethod
    def of(
        cls,
        studies: Sequence[StudyView],
        metric: str,
        is_minimized: bool,
        x: str,
        y: str,
        most_values: int | None = MOST_VALUES,
    ) -> Interaction:
        """The trials of studies that search the same, such as with several seeds.

        Args:
            most_values: of `y`; None: any number.

        Raises:
            StoreError: if a parameter was not searched, `y` has many values, or no trial is complete.
        """
        trials = [trial for study in studies for trial in study.trials if trial.is_told and trial.same_as is None]
        known = sorted({name for trial in trials for name in trial.params})
        for name in (x, y):
            if name not in known:
                raise StoreError(unknown("searched parameter", name, known))
        if x == y:
            raise StoreError(f"an interaction is one of two parameters, but --x and --y are both {x!r}")
        both = [trial for trial in trials if x in trial.params and y in trial.params]
        if most_values is not None and (count := len({trial.params[y] for trial in both})) > most_values:
            raise StoreError(
                f"--y must be a parameter of at most {most_values} values, but {y} has had {count}; "
                f"--y={x} --x={y} swaps them"
            )
        if not any(trial.value is not None for trial in both):
            raise StoreError(f"an interaction is one of complete trials, but there is none that has {x} and {y} yet")
        pairs: dict[tuple[Any, Any], list[TrialView]] = defaultdict(list)
        for trial in both:
            pairs[trial.params[x], trial.params[y]].append(trial)
        cells = {pair: _cell(pairs[pair], metric) for pair in sorted(pairs, key=_order)}
        others = [
            name
            for name in known
            if name not in (x, y)
            and len({str(trial.params.get(name)) for trial in both if trial.value is not None}) > 1
        ]
        unended = sum(trial.value is None and trial.reason != Reason.DIVERGED for trial in both)
        return cls(metric, is_minimized, x, y, cells, others, unended, tuple(both))

    def values(self, axis: int) -> list[Any]:
        """The values of `x` (0) or `y` (1), ascending."""
        return sorted({pair[axis] for pair in self.cells}, key=_order)

    @property
    def is_grid(self) -> bool:
        """Whether few values of `x` recur, so that cells make a table."""
        return len(self.values(0)) <= MOST_VALUES

    @property
    def is_full(self) -> bool:
        """Whether so many pairs have trials that a table says more than the trials one by one."""
        few = max(len(self.values(0)), len(self.values(1))) <= MOST_VALUES
        return few and len(self.cells) > FULL * len(self.values(0)) * len(self.values(1))

    def best(self, y: Any) -> tuple[Any, Cell] | None:
        """The best cell of one value of `y`, and its `x`; None where none of its trials is complete."""
        found = [(x, cell) for (x, own), cell in self.cells.items() if own == y and cell.value is not None]
        sign = -1.0 if self.is_minimized else 1.0
        return max(found, key=lambda one: sign * (one[1].value or 0.0), default=None)

    def as_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "x": self.x,
            "y": self.y,
            "others": self.others,
            "unended": self.unended,
            "cells": [
                {
                    self.x: x,
                    self.y: y,
                    "value": cell.value,
                    "error": cell.error,
                    "values": list(cell.values),
                    "diverged": cell.diverged,
                }
                for (x, y), cell in self.cells.items()
            ],
        }


def _cell(trials: Sequence[TrialView], metric: str) -> Cell:
    complete = [trial for trial in trials if trial.value is not None]
    errors = [trial.standard_error(metric) or 0.0 for trial in complete]
    return Cell(
        values=tuple(float(trial.value or 0.0) for trial in complete),
        row_error=sum(errors) / len(errors) if errors else 0.0,
        diverged=sum(trial.reason == Reason.DIVERGED for trial in trials),
    )


def _order(value: Any) -> Any:
    """Numbers by size, words by themselves, pairs by both."""
    if isinstance(value, tuple):
        return tuple(map(_order, value))
    return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))
