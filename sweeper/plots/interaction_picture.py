"""The picture of what two searched parameters do together.

Where pairs of values recur, lines with standard errors and a table; else every trial by itself, those that were stopped
too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from sweeper.config.schema import Config
from sweeper.errors import StoreError
from sweeper.plots.interaction import MOST_VALUES, Cell, Interaction
from sweeper.plots.marks import (
    FATES,
    MOST_DRAWN,
    axis_words,
    circled,
    clipped,
    fate,
    finite,
    legend,
    scaled,
    scored,
    short,
)
from sweeper.plots.picture import HEIGHT_IN, LIGHT, LeftOut, Picture, Theme, picture, write
from sweeper.search.views import StudyView, TrialView

NAME = "interaction"
AXES = ("learning_rate", "rank")  # where both were searched
MARKERS = "osD^vP*XhdpH"
STYLES = ("-", "--", ":")
CROWDED = 60  # trials that lie beside each other
SPREAD, GOLDEN = 0.62, 0.618034  # of a row's height; places that fill it evenly
LONG = 44  # characters of names that an axis has room for
MOST_TICKS = 6  # of whole numbers, that each have one; others are too near to each other


def interaction(seen: StudyView, config: Config, important: Sequence[str]) -> Picture | LeftOut:
    """The picture of a study.

    Args:
        important: the searched parameters, the most important first, as far as that is known.
    """
    values: dict[str, set[Any]] = {}
    for trial in seen.trials:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(value)
    varied = [name for name in [*important, *sorted(set(values) - set(important))] if len(values.get(name, ())) > 1]
    if len(varied) < 2:
        return LeftOut(NAME, f"two parameters must have varied, but {', '.join(varied) or 'none'} has")
    x, y = AXES if set(AXES) <= set(varied) else sorted(varied[:2], key=lambda name: -len(values[name]))
    try:
        objective = config.objective
        found = Interaction.of([seen], objective.metric_name, objective.is_minimized, x, y, most_values=None)
    except StoreError as error:  # there is no complete trial yet
        return LeftOut(NAME, str(error))
    title = f"{found.metric} by {x} and {y}"
    return picture(NAME, title, _sentence(found, seen.best), partial(_fill, found, seen.best), _height_in(found))


def draw(found: Interaction, studies: str, file: Path) -> None:
    """Draws an interaction of one or several studies.

    Raises:
        StoreError: if it cannot be drawn, or the file cannot be written.
    """
    title = f"{studies}: {found.metric} by {found.x} and {found.y}"
    made = picture(NAME, title, _sentence(found, None), partial(_fill, found, None), _height_in(found))
    if (failed := write(made, LIGHT, file)) is not None:
        raise StoreError(f"there is no picture {file}: {failed.reason}")


def _height_in(found: Interaction) -> float:
    return HEIGHT_IN + 0.9 + 0.42 * len(found.values(1)) if found.is_full else HEIGHT_IN


def _sentence(found: Interaction, winner: TrialView | None) -> str:
    words, is_said = [], None
    if winner is not None and {found.x, found.y} <= set(winner.params):
        is_said = winner.params[found.y]
        at = f"{found.y} {short(is_said)} and {found.x} {short(winner.params[found.x])}"
        words.append(f"the winner scores {scored(winner, found.metric)} at {at}")
    best = [(y, *cell) for y in found.values(1) if (cell := found.best(y)) is not None]
    if len(best) > 1 and len(found.values(1)) <= MOST_VALUES:
        best.sort(key=lambda one: one[2].value or 0.0, reverse=not found.is_minimized)
        words += [
            f"{found.y} {short(y)} reaches {_words(cell)} at best ({found.x} {short(x)})"
            for y, x, cell in (best[0], best[-1])
            if y != is_said
        ]
    if stopped := sum(trial.value is None for trial in found.trials):
        words.append(f"{stopped} of {len(found.trials)} trials were stopped or diverged")
    sentence = "; ".join(words) or f"{len(found.trials)} trials"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _words(cell: Cell) -> str:
    return short(float(cell.value or 0.0)) + (f" ± {cell.error:.2g}" if cell.error else "")


def _fill(found: Interaction, winner: TrialView | None, figure: Figure, theme: Theme) -> None:
    if not found.is_full:
        _scatter(found, winner, figure, theme)
        return
    rows = len(found.values(1))
    above, below = figure.subplots(2, 1, height_ratios=(HEIGHT_IN, 1.1 + 0.42 * rows))
    _lines(found, above, theme)
    _table(found, below, theme)


def _lines(found: Interaction, axes: Axes, theme: Theme) -> None:
    xs = found.values(0)
    across = _places(xs, _are_numbers(xs))
    for place, y in enumerate(found.values(1)):
        line = [(x, cell) for (x, own), cell in found.cells.items() if own == y and cell.value is not None]
        axes.errorbar(
            [across(x) for x, _ in line],
            [cell.value or 0.0 for _, cell in line],
            yerr=[cell.error for _, cell in line],
            marker=MARKERS[place % len(MARKERS)],
            markersize=5,
            capsize=2,
            linewidth=1.4,
            color=theme.colours[place % len(theme.colours)],
            linestyle=STYLES[place // len(theme.colours) % len(STYLES)],
            label=clipped(short(y)),
        )
    _axis(axes.xaxis, xs)
    axes.set_xlabel(found.x)
    axes.set_ylabel(axis_words(found.metric, found.is_minimized))
    axes.legend(title=clipped(found.y), loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _table(found: Interaction, axes: Axes, theme: Theme) -> None:
    columns, rows = found.values(0), found.values(1)
    values = np.full((len(rows), len(columns)), np.nan)
    for (x, y), cell in found.cells.items():
        if cell.value is not None:
            values[rows.index(y), columns.index(x)] = cell.value
    image = axes.imshow(values, aspect="auto", cmap=theme.colormap(found.is_minimized))
    size = "small" if len(columns) <= 6 else 6.5 if len(columns) <= 9 else 5
    for (x, y), cell in found.cells.items():
        at = columns.index(x), rows.index(y)
        if cell.value is None:
            axes.text(*at, "diverged" if cell.diverged else "–", ha="center", va="center", fontsize=size)
            continue
        text = (
            f"{short(cell.value)}\n±{cell.error:.{2 if len(columns) <= 6 else 1}g}" if cell.error else short(cell.value)
        )
        ink = theme.ink_on(image.to_rgba(np.array([cell.value]))[0])
        axes.text(*at, text, ha="center", va="center", fontsize=size, color=ink)
    _name(axes.xaxis, columns)
    _name(axes.yaxis, rows)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlabel(found.x)
    axes.set_ylabel(found.y)


def _scatter(found: Interaction, winner: TrialView | None, figure: Figure, theme: Theme) -> None:
    """Every trial where it lies: its colour is the metric, as far as there is one, and its marker what became of it."""
    axes = figure.add_subplot()
    xs, ys = found.values(0), found.values(1)
    is_in_rows, are_many = len(ys) <= MOST_VALUES, len(found.trials) > CROWDED
    across, up = _places(xs, _are_numbers(xs)), _places(ys, not is_in_rows and _are_numbers(ys))

    def place(trial: TrialView) -> tuple[float, float]:
        aside = _aside(trial) if is_in_rows and are_many else 0.0
        return across(trial.params[found.x]), up(trial.params[found.y]) + aside

    scores = [trial.value if trial.value is not None else trial.metrics.get(found.metric) for trial in found.trials]
    known = [score for score in scores if finite(score)]
    # A few that are far off would leave one colour to all others.
    low, high = np.percentile(known, (0, 95) if found.is_minimized else (5, 100)) if known else (0.0, 1.0)
    norm, colours = Normalize(low, high), theme.colormap(found.is_minimized)
    for one in (known_fate for known_fate in reversed(FATES) if known_fate in set(map(fate, found.trials))):
        own = [(*place(trial), score) for trial, score in zip(found.trials, scores, strict=True) if fate(trial) is one]
        stroke = withStroke(linewidth=2.4 if are_many else 3.2, foreground=theme.text)
        outline: Any = {"path_effects": [stroke]} if one.is_line else {"edgecolors": theme.text}
        axes.scatter(
            [x for x, _, _ in own],
            [y for _, y, _ in own],
            s=18 if are_many else 48,
            c=[colours(float(norm(np.asarray(score)))) if finite(score) else theme.background for _, _, score in own],
            marker=one.marker,
            linewidths=(1.2 if are_many else 1.8) if one.is_line else (0.4 if are_many else 0.7),
            label=one.words,
            rasterized=len(found.trials) > MOST_DRAWN,
            zorder=3,
            **outline,
        )
    _axis(axes.xaxis, xs)
    if is_in_rows:
        _name(axes.yaxis, ys)
    else:
        _axis(axes.yaxis, ys)
    if winner is not None and {found.x, found.y} <= set(winner.params):
        circled(axes, [place(winner)], theme.winner, f"winner, trial {winner.number}")
    axes.margins(0.09, 0.14)
    axes.set_xlabel(found.x)
    axes.set_ylabel(found.y)
    figure.colorbar(
        ScalarMappable(norm, colours), ax=axes, pad=0.02, label=axis_words(found.metric, found.is_minimized)
    )
    legend(figure, axes)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _places(values: Sequence[Any], are_numbers: bool) -> Callable[[Any], float]:
    """Where each value lies on its axis: numbers where they are, others beside each other."""
    if are_numbers:
        return float
    order = {value: float(place) for place, value in enumerate(values)}
    return lambda value: order[value]


def _aside(trial: TrialView) -> float:
    """How far a trial is moved out of its row, so that those of one row do not hide each other; evenly, and the same
    each time."""
    return SPREAD * (trial.number * GOLDEN % 1.0 - 0.5)


def _axis(axis: Any, values: Sequence[Any]) -> None:
    """Ticks at the values themselves, where they are few or no numbers."""
    if _are_numbers(values):
        scaled(axis, values)
        if len(values) <= MOST_TICKS and all(isinstance(value, int) for value in values):
            axis.set_ticks(values, [short(value) for value in values])
    else:
        _name(axis, values)


def _name(axis: Any, values: Sequence[Any]) -> None:
    """A tick for each value, one beside the other; aslant where their names would run into each other."""
    names = [clipped(short(value)) for value in values]
    axis.set_ticks(range(len(values)), names)
    if axis.axis_name == "x" and sum(map(len, names)) > LONG:
        for label in axis.get_ticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor", fontsize="small")
