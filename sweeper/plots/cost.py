"""The picture of a bill: where the dollars went, from nothing to the sum."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from sweeper.money.bill import DEAD_ENDS, USEFUL, Label
from sweeper.money.statement import Statement, percent
from sweeper.plots.picture import COLOURS, figure, write
from sweeper.units import usd_text

_USEFUL, _DEAD_END, _OTHER = COLOURS[2], COLOURS[1], COLOURS[5]
MOST_BESIDE = 0.55  # of the width: a bar that ends behind it has its words before it


def draw(found: Statement, file: Path) -> None:
    """Draws a waterfall: a bar for each label, each from where the one above it ends; in seconds without prices.

    Raises:
        StoreError: if the file cannot be written.
    """
    made, [axes] = figure()
    is_in_dollars = found.bill.is_in_dollars
    parts = {
        label: (part.usd or 0.0) if is_in_dollars else part.seconds for label, part in found.bill.by_label().items()
    }
    total = sum(parts.values())
    rows = [*((label.value, value, _colour(label)) for label, value in parts.items()), ("all", total, COLOURS[0])]
    left = 0.0
    for place, (name, value, colour) in enumerate(rows):
        start = 0.0 if name == "all" else left
        axes.barh(place, value, left=start, color=colour, edgecolor=colour, height=0.7)  # the edge shows the smallest
        amount = usd_text(value, total) if is_in_dollars else f"{value:,.1f} s"
        share = f" · {percent(value / total)}" if total and name != "all" else ""
        is_before = start > MOST_BESIDE * total
        at, align = (start, "right") if is_before else (start + value, "left")
        axes.annotate(
            f"{amount}{share}",
            (at, place),
            xytext=(-4 if is_before else 4, 0),
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize="small",
        )
        left += value
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * total or 1.0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    unit = "dollars" if is_in_dollars else "device seconds"
    axes.set_xlabel(f"{unit} (green: what the answer rests on; red: dead ends)", fontsize="small")
    axes.set_title(f"{found.study}\n{textwrap.fill(found.sentence(), 84)}", fontsize="small", loc="left")
    write(made, file)


def _colour(label: Label) -> str:
    if label in USEFUL:
        return _USEFUL
    return _DEAD_END if label in DEAD_ENDS else _OTHER
