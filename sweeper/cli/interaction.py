"""`sweeper interaction`: two parameters against the metric, as a table and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich import box
from rich.table import Table

from sweeper.config import check
from sweeper.errors import StoreError
from sweeper.launching.screen import terminal
from sweeper.paths import Home
from sweeper.plots.interaction import Cell, Interaction
from sweeper.plots.interaction_picture import draw
from sweeper.report.sentences import number_text, score
from sweeper.search.views import view


def show(home: Home, names: Sequence[str], x: str, y: str, file: Path | None, as_json: bool) -> None:
    """Prints the interaction, and draws it where a file is named.

    Raises:
        StoreError: if a study is not there, the studies have different metrics, or the parameters were not searched.
    """
    studies = [view(home, name) for name in dict.fromkeys(names)]
    objectives = {study.name: check.load(home.study(study.name)).objective for study in studies}
    if len({(found.metric_name, found.direction) for found in objectives.values()}) > 1:
        listed = ", ".join(f"{name} {found.metric_name}" for name, found in objectives.items())
        raise StoreError(f"studies that are taken together must have the same metric, but: {listed}")
    objective = objectives[studies[0].name]
    found = Interaction.of(studies, objective.metric_name, objective.direction == "minimize", x, y)
    if file is not None:
        draw(found, ", ".join(objectives), file)
    if as_json:
        click.echo(json.dumps({"studies": list(objectives), **found.as_dict()}, indent=2))
        return
    if found.is_grid:
        terminal().print(_table(found))
    for line in _lines(found):
        click.echo(line)
    if file is not None:
        click.echo(f"picture: {file}")


def _table(found: Interaction) -> Table:
    table = Table(
        title=f"{found.metric} by {found.y} (rows) and {found.x} (columns)", title_justify="left", box=box.SIMPLE
    )
    table.add_column(found.y, justify="right")
    for x in found.values(0):
        table.add_column(number_text(x), justify="right", no_wrap=True)
    for y in found.values(1):
        best = found.best(y)
        cells = [found.cells.get((x, y)) for x in found.values(0)]
        words = [_words(cell) for cell in cells]
        bold = [
            f"[bold]{text}[/bold]" if best and cell is best[1] else text
            for cell, text in zip(cells, words, strict=True)
        ]
        table.add_row(number_text(y), *bold)
    return table


def _words(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.value is None:
        return "diverged" if cell.diverged else "–"
    return score(cell.value) + (f" ± {score(cell.error)}" if cell.error else "")


def _lines(found: Interaction) -> list[str]:
    lines = []
    for y in found.values(1):
        if (best := found.best(y)) is not None:
            lines.append(f"{found.y} {number_text(y)}: best {_words(best[1])} at {found.x} {number_text(best[0])}")
    if found.others:
        lines.append(f"A cell is a mean over what else was searched: {', '.join(found.others)}")
    if found.unended:
        lines.append(f"{found.unended} trials that were stopped are in no cell; pruner=none lets all of them end")
    return lines
