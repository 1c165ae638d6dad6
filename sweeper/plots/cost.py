"""The picture of a bill: where the dollars went, from nothing to the sum."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sweeper.money.bill import DEAD_ENDS, USEFUL, Label
from sweeper.money.statement import Statement, percent
from sweeper.plots.picture import LeftOut, Picture, Theme, picture
from sweeper.units import usd_text

NAME = "dollars"
MOST_BESIDE = 0.55  # of the width: a bar that ends behind it has its words before it
ALL = "all"
DEAD_END = "///"  # hatched: no colour is the only sign


def dollars(found: Statement | None) -> Picture | LeftOut:
    """A waterfall: a bar for each label, each from where the one above it ends; in seconds without prices."""
    if found is None or not found.bill.lines:
        return LeftOut(NAME, "nothing is booked of it")
    bars = len(found.bill.by_label()) + 1
    title = f"Where the {'dollars' if found.bill.is_in_dollars else 'device seconds'} went"
    return picture(NAME, title, f"{found.sentence()}.", partial(_fill, found), height_in=1.8 + 0.27 * bars)


def _fill(found: Statement, figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    is_in_dollars = found.bill.is_in_dollars
    parts = {
        label: (part.usd or 0.0) if is_in_dollars else part.seconds for label, part in found.bill.by_label().items()
    }
    total = sum(parts.values())
    left = 0.0
    for place, (label, value) in enumerate([*parts.items(), (ALL, total)]):
        start = 0.0 if label == ALL else left
        style = {"facecolor": theme.muted, "edgecolor": theme.muted} if label == ALL else _style(Label(label), theme)
        axes.barh(place, value, left=start, height=0.7, **style)
        amount = usd_text(value, total) if is_in_dollars else f"{value:,.1f} s"
        share = f" · {percent(value / total)}" if total and label != ALL else ""
        is_before = start > MOST_BESIDE * total
        axes.annotate(
            f"{amount}{share}",
            (start if is_before else start + value, place),
            xytext=(-4 if is_before else 4, 0),
            textcoords="offset points",
            ha="right" if is_before else "left",
            va="center",
            fontsize="small",
        )
        left += value
    axes.set_yticks(range(len(parts) + 1), [*(label.value for label in parts), ALL])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * total or 1.0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("dollars" if is_in_dollars else "device seconds")
    kinds = {"what the answer rests on": Label.WINNER, "dead ends": Label.PRUNED, "neither": Label.OVERHEAD}
    handles = [Patch(label=words, **_style(label, theme)) for words, label in kinds.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _style(label: Label, theme: Theme) -> dict[str, Any]:
    """Of a bar; its edge shows the smallest."""
    if label in DEAD_ENDS:
        return {"facecolor": theme.background, "edgecolor": theme.bad, "hatch": DEAD_END}
    colour = theme.good if label in USEFUL else theme.plain
    return {"facecolor": colour, "edgecolor": colour}
