"""Which label the winner takes for which: counts alone, of rows that were predicted; their text is not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from sweeper.errors import StoreError
from sweeper.mistakes import kept
from sweeper.paths import TEST, VALIDATION, StudyPaths
from sweeper.plots.marks import clipped
from sweeper.plots.picture import LeftOut, Picture, Theme, picture
from sweeper.search.views import StudyView

NAME = "confusion"
MOST_LABELS = 20  # of more, those that are confused the most
Counts = NDArray[np.int64]
Pairs = Counter[tuple[str, str]]  # how often a label got another


def confusion(seen: StudyView, paths: StudyPaths) -> Picture | LeftOut:
    """The picture of a study: on the test split where the winner was scored there, else on validation."""
    best = seen.best
    if best is None:
        return LeftOut(NAME, "there is no winner yet")
    number = best.number if best.same_as is None else best.same_as
    split = next((one for one in (TEST, VALIDATION) if paths.predictions(number, one).is_file()), None)
    if split is None:
        return LeftOut(NAME, f"no predictions of trial {number} are kept")
    try:
        rows = kept.read(paths.predictions(number, split))
    except StoreError as error:
        return LeftOut(NAME, str(error))
    pairs = Counter((row.truth, row.prediction) for row in rows if row.truth is not None)
    if not pairs:
        return LeftOut(NAME, "answers are written, and no labels")
    labels = sorted({label for pair in pairs for label in pair})
    shown = _most_confused(pairs, labels)
    whose = f"trial {best.number} on {split}"
    title = f"Which label is taken for which, {whose}"
    if len(shown) < len(labels):
        title = f"The {len(shown)} of {len(labels)} labels that are confused the most, {whose}"
    counts = np.array([[pairs[truth, said] for said in shown] for truth in shown])
    totals = [sum(count for (truth, _), count in pairs.items() if truth == label) for label in shown]
    fill = partial(_fill, shown, counts, totals)
    return picture(NAME, title, _sentence(pairs, len(rows), split), fill, height_in=1.9 + 0.21 * max(6, len(shown)))


def _most_confused(pairs: Pairs, labels: Sequence[str]) -> list[str]:
    """The labels that have the most wrong rows, given or got, in the order of the alphabet."""
    if len(labels) <= MOST_LABELS:
        return list(labels)
    wrong: Counter[str] = Counter()
    for (truth, said), count in pairs.items():
        if truth != said:
            wrong[truth] += count
            wrong[said] += count
    return sorted(sorted(labels, key=lambda label: (-wrong[label], label))[:MOST_LABELS])


def _sentence(pairs: Pairs, rows: int, split: str) -> str:
    wrong = sorted((-count, truth, said) for (truth, said), count in pairs.items() if truth != said)
    total = -sum(count for count, _, _ in wrong)
    words = f"{total} of {rows} {split} rows are wrong ({total / rows:.1%})"
    if not wrong:
        return f"{words}."
    count, truth, said = wrong[0]
    return f"{words}; the most frequent mistake is {truth!r} taken for {said!r}, {-count} times."


def _fill(labels: list[str], counts: Counts, totals: list[int], figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    count = len(labels)
    wrong = np.where(np.eye(count, dtype=bool), 0, counts) / np.maximum(1, np.array(totals))[:, None]
    most = float(wrong.max()) or 1.0
    paper = theme.shades()(wrong / most)
    paper[np.eye(count, dtype=bool)] = to_rgba(theme.grid)
    axes.imshow(paper, aspect="auto")
    size = 8 if count <= 12 else 6.5
    for (row, column), value in np.ndenumerate(counts):
        if value:
            weight = "normal" if row == column else "bold"
            ink = theme.ink_on(paper[row, column])
            axes.text(column, row, f"{value}", ha="center", va="center", fontsize=size, color=ink, weight=weight)
    names = [f"{clipped(label, 22)}  {place}" for place, label in enumerate(labels, start=1)]
    axes.set_yticks(range(count), names, fontsize="small" if count <= 12 else size + 0.5)
    axes.set_xticks(range(count), [str(place) for place in range(1, count + 1)], fontsize=size)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel(
        f"predicted label, by its number\n(fullest colour: {most:.0%} of the label's rows)", fontsize="small"
    )
    axes.set_ylabel("right label")
