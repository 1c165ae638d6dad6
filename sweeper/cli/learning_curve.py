"""`sweeper learning-curve`: its points, what twice the rows would buy, and where the picture is."""

from __future__ import annotations

import json
from functools import partial

import click
from rich import box
from rich.table import Table

from sweeper.launching.learning_curve import learning_curve
from sweeper.launching.screen import Output, terminal
from sweeper.learning.curve import LearningCurve
from sweeper.paths import Home
from sweeper.report.sentences import score


def show(home: Home, study: str, fractions: str | None, seeds: int | None, as_json: bool) -> int:
    """Prints a study's learning curve; returns the exit code."""
    output = Output.BESIDE if as_json else Output.PERSON
    found = learning_curve(home, study, fractions, seeds, partial(click.echo, err=as_json), output)
    if isinstance(found, int):
        return found
    picture = home.study(study).learning_curve_picture
    if as_json:
        click.echo(json.dumps({"study": study, **found.as_dict(), "picture": str(picture)}, indent=2))
        return 0
    whose = f"trial {found.trial}" if found.trial is not None else "the start of the search"
    of_each = f", {len(found.seeds)} seeds each" if len(found.seeds) > 1 else ""
    click.echo(f"{study}, {whose}, on parts of the training rows: {found.examples:,} examples for each{of_each}")
    terminal().print(_table(found))
    for sentence in found.sentences():
        click.echo(sentence)
    click.echo(f"picture: {picture}")
    return 0


def _table(curve: LearningCurve) -> Table:
    table = Table(box=box.SIMPLE)
    for column in ("rows", "share", "passes", f"{curve.metric}, validation"):
        table.add_column(column, justify="right")
    for point in curve.points:
        value = score(point.value) + (f" ± {score(point.error)}" if point.error else "")
        passes = f"{curve.examples / point.rows:.2g}"
        table.add_row(f"{point.rows:,}", f"{point.rows / curve.rows:.0%}", passes, value)
    return table
