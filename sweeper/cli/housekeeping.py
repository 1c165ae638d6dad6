"""`sweeper list`, `stop` and `clean` in words and tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

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


class _Said:
    """What goes, or would go: a line each as it goes, or all of it as JSON at the end."""

    def __init__(self, deletes: bool, as_json: bool) -> None:
        self._deletes, self._as_json = deletes, as_json
        self._items: list[dict[str, Any]] = []

    def item(self, size_bytes: int, what: str, words: str, **more: str) -> None:
        self._items.append({"what": what, "size_bytes": size_bytes, **more})
        if not self._as_json:
            click.echo(f"{'deleted' if self._deletes else 'would delete':<12} {size_text(size_bytes):>10}  {words}")

    def end(self, words: str, notes: Sequence[str] = ()) -> None:
        if self._as_json:
            total_bytes = sum(item["size_bytes"] for item in self._items)
            result = {"deleted": self._deletes, "size_bytes": total_bytes, "items": self._items, "notes": list(notes)}
            click.echo(json.dumps(result, indent=2))
            return
        for note in notes:
            click.echo(f"note: {note}")
        if not self._items:
            click.echo("there is nothing to delete")
        else:
            click.echo(f"in all {words}" + ("" if self._deletes else f": {REPEAT}"))


def clean(home: Home, studies: Sequence[str], kinds: Sequence[str], deletes: bool, as_json: bool) -> None:
    """Prints what goes, or would go, and how much that is.

    Args:
        kinds: of `sweeper.housekeeping.clean.Kind`; none: the usual ones.
    """
    from sweeper.housekeeping.clean import USUAL, Cleaner, Item, Kind

    said = _Said(deletes, as_json)

    def announce(item: Item, size_bytes: int) -> None:
        said.item(size_bytes, str(item.path), f"{item.path} ({item.why})", kind=item.kind.value, why=item.why)

    cleaner = Cleaner(home, deletes, announce)
    result = cleaner.clean(studies, [Kind(kind) for kind in kinds] or USUAL)
    said.end(f"{result.items}, {size_text(result.size_bytes)}", list(dict.fromkeys(result.notes)))


def clean_whole(home: Home, studies: Sequence[str], deletes: bool, as_json: bool) -> None:
    """Prints the parts of whole studies as they go, or would go."""
    from sweeper.housekeeping.whole import Part, delete_whole, found_whole

    said = _Said(deletes, as_json)

    def announce(part: Part) -> None:
        said.item(part.size_bytes, part.what, part.what)

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
    said.end(f"{len(found)} whole stud{'y' if len(found) == 1 else 'ies'}, {size_text(total_bytes)}")
