"""What two searched parameters do together: a table of the metric by both, and its picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.errors import StoreError, unknown
from sweeper.plots.picture import COLOURS, figure, write
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason

MOST_VALUES = 12  # of a parameter that is told apart by colour, or has a row of cells
MOST_NAMED = 8  # trials and parameters in a message


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
    """

    metric: str
    is_minimized: bool
    x: str
    y: str
    cells: dict[tuple[Any, Any], Cell]
    others: list[str]
    unended: int

    @classmethod
    def of(cls, studies: Sequence[StudyView], metric: str, is_minimized: bool, x: str, y: str) -> Interaction:
        """The trials of studies that search the same, such as with several seeds.

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
        if len({trial.params[y] for trial in both}) > MOST_VALUES:
            raise StoreError(
                f"--y must be a parameter of at most {MOST_VALUES} values, but {y} has had "
                f"{len({trial.params[y] for trial in both})}; --y={x} --x={y} swaps them"
            )
        if not any(trial.value is not None for trial in both):
            raise StoreError(f"an interaction is one of complete trials, but there is none that has {x} and {y} yet")
        cells = {
            pair: _cell([trial for trial in both if (trial.params[x], trial.params[y]) == pair], metric)
            for pair in sorted({(trial.params[x], trial.params[y]) for trial in both}, key=_order)
        }
        others = [
            name
            for name in known
            if name not in (x, y)
            and len({str(trial.params.get(name)) for trial in both if trial.value is not None}) > 1
        ]
        unended = sum(trial.value is None and trial.reason != Reason.DIVERGED for trial in both)
        return cls(metric, is_minimized, x, y, cells, others, unended)

    def values(self, axis: int) -> list[Any]:
        """The values of `x` (0) or `y` (1), ascending."""
        return sorted({pair[axis] for pair in self.cells}, key=_order)

    @property
    def is_grid(self) -> bool:
        """Whether few values of `x` recur, so that cells make a table."""
        return len(self.values(0)) <= MOST_VALUES

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


def shown(value: Any) -> str:
    """A parameter's value."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw(found: Interaction, title: str, file: Path) -> None:
    """Draws lines of the metric over `x`, one for each `y`, and, where cells make a table, that in colours.

    Raises:
        StoreError: if the file cannot be written.
    """
    made, axes = figure(2 if found.is_grid else 1)
    _lines(found, axes[0])
    if found.is_grid:
        _table(found, axes[1], made)
    made.suptitle(title, fontsize="medium")
    write(made, file)


def _lines(found: Interaction, axes: Any) -> None:
    are_numbers = all(isinstance(x, int | float) for x in found.values(0))
    for place, y in enumerate(found.values(1)):
        line = [(x, cell) for (x, own), cell in found.cells.items() if own == y and cell.value is not None]
        axes.errorbar(
            [x if are_numbers else shown(x) for x, _ in line],
            [cell.value for _, cell in line],
            yerr=[cell.error for _, cell in line],
            marker="o",
            capsize=2,
            linewidth=1.4,
            color=COLOURS[place % len(COLOURS)],
            linestyle="-" if place < len(COLOURS) else "--",
            label=f"{found.y} {shown(y)}",
        )
    values = found.values(0)
    if are_numbers and min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(found.x)
    axes.set_ylabel(f"{found.metric}, validation" + (" (less is better)" if found.is_minimized else ""))
    axes.legend(frameon=False, fontsize="small")


def _table(found: Interaction, axes: Any, made: Any) -> None:
    columns, rows = found.values(0), found.values(1)
    values = np.full((len(rows), len(columns)), np.nan)
    for (x, y), cell in found.cells.items():
        if cell.value is not None:
            values[rows.index(y), columns.index(x)] = cell.value
    image = axes.imshow(values, aspect="auto", cmap="viridis_r" if found.is_minimized else "viridis")
    low, high = np.nanmin(values), np.nanmax(values)
    for (x, y), cell in found.cells.items():
        text = (
            f"{cell.value:.3g}\n±{cell.error:.2g}" if cell.value is not None else ("diverged" if cell.diverged else "–")
        )
        is_dark = cell.value is not None and ((cell.value - low) / ((high - low) or 1) < 0.5) != found.is_minimized
        colour = "white" if is_dark else "black"
        axes.text(columns.index(x), rows.index(y), text, ha="center", va="center", fontsize="small", color=colour)
    axes.set_xticks(range(len(columns)), [shown(x) for x in columns])
    axes.set_yticks(range(len(rows)), [shown(y) for y in rows])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlabel(found.x)
    axes.set_ylabel(found.y)
    made.colorbar(image, ax=axes, label=found.metric)
