"""`sweeper errors` in words, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import click
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.errors import StoreError
from sweeper.launching.screen import terminal
from sweeper.mistakes.counts import Bucket, Confusion, against_base, by_confidence, by_length, confusions, worst
from sweeper.mistakes.joined import Joined, Judged, chosen, joined
from sweeper.mistakes.table import record, write_csv
from sweeper.paths import Home
from sweeper.search.views import view

CONFUSION, LENGTH, CONFIDENCE = "confusion", "length", "confidence"
SHOWN = 10  # rows and pairs of labels, where nothing else is asked for
_LONGEST = 500  # characters of a text that a terminal may have room for
_NARROWEST = 12  # columns of a terminal that a text gets at least
_WHOLE = 40  # and that an id or a label is not cut within
GONE = "(no text)"


class Column(Enum):
    """What a column has: numbers, names that are shown whole, or texts that share the rest of the width."""

    NUMBER, NAME, TEXT = range(3)


@dataclass(frozen=True)
class Asked:
    """What is to be shown: of which predictions, in which order, and how much.

    Attributes:
        trial: None: the winner's.
        by: confusion, length or confidence; None: all of them.
        limit: None: what a terminal has room for, and in JSON everything.
        file: where all wrong rows are to be written as CSV.
    """

    trial: int | None
    is_base: bool
    split: str
    by: str | None
    limit: int | None
    file: Path | None
    as_json: bool


def show(home: Home, study: str, asked: Asked) -> None:
    """Prints what is wrong.

    Raises:
        StoreError: if there is nothing to show, or the file cannot be written.
    """
    seen = view(home, study)
    number = None if asked.is_base else chosen(seen, asked.trial)
    found = joined(seen, home.study(study), number, asked.split)
    if asked.by == CONFUSION and all(one.kept.truth is None for one in found.judged):
        raise StoreError("--by confusion is of labels, but the predictions of this study are written answers")
    if asked.file is not None:
        try:
            write_csv(found, asked.file.expanduser().absolute())
        except OSError as error:
            raise StoreError(f"--csv must be a file that can be written, but {asked.file}: {error.strerror}") from None
    if asked.as_json:
        click.echo(json.dumps(errors_json(found, asked.by, asked.limit), indent=2, ensure_ascii=False))
        return
    console = terminal()
    console.print(errors_table(found, asked.by, asked.limit or SHOWN, console.width))
    if asked.file is not None:
        click.echo(f"all {len(found.wrong)} wrong rows, with their text: {asked.file}")


def errors_json(found: Joined, by: str | None, limit: int | None) -> dict[str, Any]:
    """`errors --json`: the counts, and all wrong rows where no limit is given."""
    base = against_base(found.judged)
    return {
        "study": found.study,
        "split": found.split,
        "trial": found.trial,
        "trained_as": found.trained_as,
        "rows": len(found.judged),
        "wrong": len(found.wrong),
        "base": None if base is None else dict(zip(("wrong", "fixed", "broken"), base, strict=True)),
        "confusions": [
            {"truth": one.truth, "predicted": one.predicted, "rows": [wrong.kept.row for wrong in one.rows]}
            for one in confusions(found)[:limit]
        ],
        "length": [asdict(bucket) for bucket in by_length(found.judged)],
        "confidence": [asdict(bucket) for bucket in by_confidence(found.judged)],
        "wrong_rows": [record(one) for one in _ordered(found, by)[:limit]],
        "notes": found.notes,
    }


def errors_table(found: Joined, by: str | None, limit: int, width: int) -> RenderableType:
    """The counts, and the wrong rows, grouped or ordered by what is asked for; without it by everything."""
    parts: list[RenderableType] = [Text("\n".join([_head(found), *(f"note: {note}" for note in found.notes)]))]
    if by in (None, CONFUSION) and (pairs := confusions(found)):
        parts.append(_confusions(pairs, limit, width))
    if by in (None, LENGTH):
        parts.append(_lengths(by_length(found.judged), width))
    if by in (None, CONFIDENCE) and (buckets := by_confidence(found.judged)):
        parts.append(_confidences(buckets, width))
    if found.wrong:
        parts.append(_rows(found, by, limit, width))
    return Group(*parts)


def _ordered(found: Joined, by: str | None) -> list[Judged]:
    if by == CONFUSION:
        return [one for confusion in confusions(found) for one in confusion.rows]
    if by == LENGTH:
        return sorted(found.wrong, key=lambda one: -one.kept.tokens)
    return worst(found) if by is None else found.wrong


def _head(found: Joined) -> str:
    rows, wrong = len(found.judged), len(found.wrong)
    head = f"{found.study}, {found.name}: {wrong} of {rows} {found.split} rows are wrong ({wrong / rows:.1%})"
    if found.trained_as is not None:
        head += f"; it is trial {found.trained_as} again, whose predictions these are"
    if (base := against_base(found.judged)) is not None:
        head += (
            f"\nThe untuned base has {base[0]} wrong; the adapter makes {base[1]} of them right, and {base[2]} wrong"
        )
        head += " that the base has right"
    return head


def _confusions(pairs: Sequence[Confusion], limit: int, width: int) -> Table:
    lines = [
        [str(len(one.rows)), one.truth, one.predicted, one.rows[0].text or one.rows[0].kept.row]
        for one in pairs[:limit]
    ]
    title = f"By confusion: {shown_of(limit, len(pairs))} pairs of labels"
    return rows_table(
        title,
        {"rows": Column.NUMBER, "right": Column.NAME, "predicted": Column.NAME, "the surest of them": Column.TEXT},
        lines,
        width,
    )


def _lengths(buckets: Sequence[Bucket], width: int) -> Table:
    columns = dict.fromkeys(("tokens", "rows", "wrong", "share wrong"), Column.NUMBER)
    lines = [[_span(one, 0), str(one.rows), str(one.wrong), f"{one.wrong / one.rows:.1%}"] for one in buckets]
    return rows_table("By length of the prompt", columns, lines, width)


def _confidences(buckets: Sequence[Bucket], width: int) -> Table:
    columns = dict.fromkeys(("confidence", "rows", "wrong", "mean", "share right"), Column.NUMBER)
    lines = [
        [_span(one, 3), str(one.rows), str(one.wrong), f"{one.mean:.3f}", f"{1 - one.wrong / one.rows:.3f}"]
        for one in buckets
    ]
    return rows_table("By confidence; calibrated: mean = share right", columns, lines, width)


def _span(bucket: Bucket, digits: int) -> str:
    low, high = (f"{edge:.{digits}f}" for edge in (bucket.low, bucket.high))
    return low if low == high else f"{low} to {high}"


def _rows(found: Joined, by: str | None, limit: int, width: int) -> Table:
    is_written = found.judged[0].kept.truth is None
    order = {
        CONFUSION: "by confusion",
        LENGTH: "the longest first",
        CONFIDENCE: "the surest first",
        None: "the least like the right answer first" if is_written else "the surest first",
    }
    answer = Column.TEXT if is_written else Column.NAME
    number = "token F1" if is_written else "confidence"
    lines = []
    for one in _ordered(found, by)[:limit]:
        value = one.kept.token_f1 if is_written else one.kept.confidence
        shown = "–" if value is None else f"{value:.3f}"
        lines.append([one.kept.row, shown, one.truth or GONE, one.kept.prediction, one.text or GONE])
    title = f"Wrong rows, {order[by]}: {shown_of(limit, len(found.wrong))}"
    columns = {"row": Column.NAME, number: Column.NUMBER, "right": answer, "predicted": answer, "text": Column.TEXT}
    return rows_table(title, columns, lines, width)


def rows_table(title: str, columns: dict[str, Column], lines: Sequence[Sequence[str]], width: int) -> Table:
    """A table whose columns of texts share what the others leave of the width."""
    cells = [list(map(plain_line, line)) for line in lines]
    widest = {name: max([len(name), *(line[place].cell_len for line in cells)]) for place, name in enumerate(columns)}
    left = width - 2 - sum(2 + (0 if kind is Column.TEXT else widest[name]) for name, kind in columns.items())
    shares = sum(kind is Column.TEXT for kind in columns.values())
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name, kind in columns.items():
        room = max(_NARROWEST, left // shares) if kind is Column.TEXT else widest[name]
        justify: Literal["left", "right"] = "right" if kind is Column.NUMBER else "left"
        least = None if kind is Column.TEXT else min(room, _WHOLE)  # a row is looked up by its id: texts give way
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", max_width=room, min_width=least)
    for line in cells:
        table.add_row(*line)
    return table


def shown_of(limit: int, total: int) -> str:
    return str(total) if total <= limit else f"{limit} of {total}"


def plain_line(text: str) -> Text:
    """A text in a line, without what a terminal would take for a command."""
    words = " ".join(text[:_LONGEST].split())
    return Text("".join(letter if letter.isprintable() else "�" for letter in words))
