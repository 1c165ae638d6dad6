"""`sweeper list`, `stop` and `clean` in words and tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click
from rich import box
from rich.table import Table

from sweeper.errors import StoreError
from sweeper.housekeeping.listing import State, StudyLine
from sweeper.paths import Home
from sweeper.units import size_text, usd_text

REPEAT = "nothing was deleted; the same command with --yes deletes"


def list_table(lines: Sequence[StudyLine]) -> Table:
    """`sweeper list`."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("study", "state", "trials", "best", "cost", "model", "changed", "size"):
        table.add_column(column, justify="right" if column in ("trials", "cost", "size") else "left")
    for line in lines:
        done = "–" if line.done is None and line.total is None else f"{line.done or 0} of {line.total or '?'}"
        best = "–" if line.best is None else f"{line.metric or 'value'} {line.best:.3f}"
        changed = _when(datetime.fromisoformat(line.changed).astimezone()) if line.changed else "–"
        style = "bold" if line.state is State.RUNNING else None
        state, size = line.state.value, size_text(line.size_bytes)
        table.add_row(line.name, state, done, best, _cost(line), line.model or "–", changed, size, style=style)
    return table


def _when(time: datetime) -> str:
    """The day, or today's hour: with both, the table would not fit a terminal."""
    return time.strftime("%H:%M" if time.date() == datetime.now().date() else "%Y-%m-%d")


def _cost(line: StudyLine) -> str:
    """Dollars, and seconds that have no price."""
    words = [usd_text(line.usd)] if line.usd is not None else []
    words += [f"{line.unpriced_s:,.0f} s"] if line.unpriced_s else []
    return " + ".join(words) or "–"


def details(lines: Sequence[StudyLine]) -> list[str]:
    """What the table has no room for: who runs a study, what ended it, what is damaged."""
    return [f"{line.name}: {line.state.value}: {line.detail}" for line in lines if line.detail]


def _line(deletes: bool, size_bytes: int, what: str) -> None:
    click.echo(f"{'deleted' if deletes else 'would delete':<12} {size_text(size_bytes):>10}  {what}")


def clean(home: Home, studies: Sequence[str], kinds: Sequence[str], deletes: bool) -> None:
    """Prints what goes, or would go, and how much that is.

    Args:
        kinds: of `sweeper.housekeeping.clean.Kind`; none: the usual ones.
    """
    from sweeper.housekeeping.clean import USUAL, Cleaner, Item, Kind

    def announce(item: Item, size_bytes: int) -> None:
        _line(deletes, size_bytes, f"{item.path} ({item.why})")

    cleaner = Cleaner(home, deletes, announce)
    result = cleaner.clean(studies, [Kind(kind) for kind in kinds] or USUAL)
    for note in dict.fromkeys(result.notes):
        click.echo(f"note: {note}")
    if not result.items:
        click.echo("there is nothing to delete")
        return
    click.echo(f"in all {result.items}, {size_text(result.size_bytes)}" + ("" if deletes else f": {REPEAT}"))


def clean_whole(home: Home, studies: Sequence[str], deletes: bool) -> None:
    """Prints the parts of whole studies as they go, or would go."""
    from sweeper.housekeeping.whole import Part, delete_whole, found_whole

    def announce(part: Part) -> None:
        _line(deletes, part.size_bytes, part.what)

    found = {name: found_whole(home, name) for name in dict.fromkeys(studies)}  # all are there, or none goes
    total_bytes = sum(part.size_bytes for parts in found.values() for part in parts)
    for name, parts in found.items():
        if not deletes:
            for part in parts:
                announce(part)
            continue
        try:
            delete_whole(home, name, announce)
        except StoreError as error:
            raise StoreError(f"{error} (what was printed as deleted is gone; the same command goes on)") from error
    what = f"{len(found)} whole stud{'y' if len(found) == 1 else 'ies'}, {size_text(total_bytes)}"
    click.echo(f"in all {what}" + ("" if deletes else f": {REPEAT}"))
