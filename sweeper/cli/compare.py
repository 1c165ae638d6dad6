"""`sweeper compare` in words, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.cli.mistakes import GONE, SHOWN, Column, rows_table, shown_of
from sweeper.comparison.compared import Asked, Comparison, compare
from sweeper.comparison.costs import Costs
from sweeper.comparison.paired import Change, Pair
from sweeper.comparison.scores import Difference, Score, Verdict
from sweeper.comparison.sides import Side
from sweeper.comparison.table import as_dict, truth_of, write_csv
from sweeper.launching.screen import terminal
from sweeper.mistakes.kept import HASHED
from sweeper.paths import Home
from sweeper.report.sentences import number_text, score
from sweeper.search.looks import WHY
from sweeper.units import usd_text

NONE = "–"
_WORDS = {Change.RIGHT: "became right", Change.WRONG: "became wrong", Change.OTHER: "stayed right or wrong"}


@dataclass(frozen=True)
class Shown:
    """How a comparison is to be shown.

    Attributes:
        limit: changed rows; None: what a terminal has room for, and in JSON everything.
        file: where all changed rows are to be written as CSV.
    """

    limit: int | None
    with_text: bool
    file: Path | None
    as_json: bool


def show(home: Home, asked: Asked, how: Shown) -> None:
    """Prints how B compares with A; raises as `compare` does, and StoreError if the file cannot be written."""
    found = compare(home, asked)
    if how.file is not None:
        write_csv(found, how.file, how.with_text)
    if how.as_json:
        click.echo(json.dumps(as_dict(found, how.limit, how.with_text), indent=2, ensure_ascii=False))
        return
    console = terminal()
    console.print(comparison_table(found, SHOWN if how.limit is None else how.limit, how.with_text, console.width))
    if how.file is not None:
        texts = ", with their text" if how.with_text else ""
        click.echo(f"all {len(found.changed)} changed rows{texts}: {how.file}")


def comparison_table(found: Comparison, limit: int, with_text: bool, width: int) -> RenderableType:
    """The scores beside each other, what they say, the rows that changed, and what is to be kept in mind."""
    main = found.differences[found.metric]
    head = [
        f"On {len(found.pairs):,} {found.split} rows",
        *(f"{letter}: {_whose(side)}" for letter, side in (("A", found.a), ("B", found.b))),
    ]
    said = [verdict(main), *_right_wrong(found), _changed(found)]
    parts: list[RenderableType] = [Text("\n".join(head)), _beside(found), Text("\n".join(said))]
    if found.changed and limit:
        parts.append(_rows(found, limit, with_text, width))
    notes = [f"note: {note}" for note in found.notes] + _uses(found)
    if notes:
        parts.append(Text("\n" + "\n".join(notes)))
    return Group(*parts)


def verdict(found: Difference) -> str:
    """Whether B is better, in a sentence with its figures."""
    metric, low, high = found.metric, found.low, found.high
    if low is None or high is None:
        return f"Whether B is better is not known: {metric} has no value on most draws of these rows."
    if found.verdict is Verdict.ALIKE:
        words = (
            f"No difference that could not come from which rows there are: {metric} B − A is {signed(found.value)} "
            f"(95 %: {signed(low)} to {signed(high)})"
        )
        if found.is_contested:
            words += ", and of so few rows that only one has right the exact test is not sure"
        return f"{words}."
    nearest, farthest = sorted((abs(low), abs(high)))
    less = ", of which less is better" if found.is_minimized else ""
    unknown = " Which is better, only whoever wrote that metric knows." if found.is_minimized is None else ""
    return (
        f"B is {found.verdict.value} than A by {score(abs(found.value))} in {metric}{less} (95 %: {score(nearest)} to "
        f"{score(farthest)}), more than which rows there are explains.{unknown}"
    )


def signed(value: float) -> str:
    """A difference with its sign, also where it is none."""
    return f"{'−' if value < 0 else '+'}{score(abs(value))}"


def _whose(side: Side) -> str:
    words, trial = side.name, side.view
    if side.studied is not None and (best := side.studied.seen.best) is not None and side.owner == best.number:
        words += ", the winner"
    if side.is_exported:
        words += ", as exported"
    if trial is not None:
        words += f": {', '.join(f'{name} {number_text(value)}' for name, value in trial.params.items())}"
    return words


def _beside(found: Comparison) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for place, column in enumerate(("", "A", "B", "B − A", "95 %")):
        table.add_column(column, justify="right" if place else "left", no_wrap=place > 0)
    for one in found.differences.values():
        interval = NONE if one.low is None or one.high is None else f"{signed(one.low)} to {signed(one.high)}"
        table.add_row(one.metric, _score(one.a), _score(one.b), signed(one.value), interval)
    for name, cell in _COSTS.items():
        cells = [cell(one) for one in found.costs]
        if any(one is not None for one in cells):
            table.add_row(name, *(NONE if one is None else one for one in cells))
    for line in _serving(found):
        table.add_row(*line)
    return table


def _score(one: Score) -> str:
    return score(one.value) + (f" ± {score(one.error)}" if one.error is not None else "")


_COSTS: dict[str, Callable[[Costs], str | None]] = {
    "rank": lambda one: None if one.rank is None else str(one.rank),
    "adapter's parameters": lambda one: None if one.parameters is None else f"{one.parameters:,}",
    "in its study, $": lambda one: None if one.usd is None else usd_text(one.usd).replace("$", ""),
    "in its study, device s": lambda one: None if one.seconds is None else f"{one.seconds:,.1f}",
    "alone, device s (estimate)": lambda one: None if one.solo_s is None else f"{one.solo_s:,.1f}",
}


def _serving(found: Comparison) -> list[tuple[str, str, str]]:
    """What serving takes, where it was measured of one side at least; of the other one, that it was not."""
    both = [one.serving for one in found.costs]
    if both == [None, None]:
        return []
    cells = [
        (NONE, NONE, NONE)
        if one is None
        else (
            f"{one.latency_ms:.3g}",
            f"{one.requests_per_s:.3g}",
            NONE if one.usd_per_1000 is None else usd_text(one.usd_per_1000).replace("$", ""),
        )
        for one in both
    ]
    names = ("ms per request, one at a time", "requests/s, best batch", "$ per 1,000 requests")
    return [(name, a, b) for name, a, b in zip(names, *cells, strict=True) if (a, b) != (NONE, NONE)]


def _measure(found: Comparison) -> list[str]:
    """How to measure what serving takes, where it was not; and on what it was."""
    lines = []
    for letter, side, one in zip("AB", (found.a, found.b), found.costs, strict=True):
        target = str(side.folder) if side.folder is not None else f"{side.study} --trial {side.owner}"
        is_gone = side.folder is None and one.parameters is None
        if one.serving is None and side.owner is not None and is_gone:
            lines.append(f"What serving {letter} takes is not measured, and its adapter is not kept")
        elif one.serving is None and side.owner is not None:
            saves = " --save" if side.folder is not None else ""
            lines.append(f"What serving {letter} takes is not measured: sweeper price-inference {target}{saves}")
        elif one.serving is not None and one.serving.is_of_trial:
            lines.append(f"What serving {letter} takes was measured of its trial in the study, not of the export")
    devices = {one.serving.device for one in found.costs if one.serving is not None}
    if len(devices) > 1:
        lines.append(
            f"They were served on other devices, {' and '.join(sorted(devices))}: those figures do not compare"
        )
    return lines


def _right_wrong(found: Comparison) -> list[str]:
    one = found.right_wrong
    if not one.both_right + one.only_a + one.only_b:
        return []  # of answers that may be right in many words
    return [
        f"Right or wrong: both right {one.both_right:,}, only A {one.only_a:,}, only B {one.only_b:,}, both wrong "
        f"{one.both_wrong:,}; McNemar's exact test p = {one.p:.2g}"
    ]


def _changed(found: Comparison) -> str:
    count = len(found.changed)
    if not count:
        return "All predictions are the same."
    kinds = (Change.RIGHT, Change.WRONG, Change.OTHER)
    parts = ", ".join(f"{found.count(change):,} {_WORDS[change]}" for change in kinds)
    return f"{count:,} of {len(found.pairs):,} predictions differ: {parts}"


def _rows(found: Comparison, limit: int, with_text: bool, width: int) -> Table:
    """The changed rows; what is a text is shown only where a person asks for it."""
    columns = {"row": Column.NAME, "B": Column.NAME}
    if found.is_written:
        columns |= dict.fromkeys(("token F1 of A", "of B"), Column.NUMBER)
    if not found.is_written or with_text:
        kind = Column.TEXT if found.is_written else Column.NAME
        columns |= dict.fromkeys(("right", "A said", "B said"), kind)
    if with_text:
        columns["text"] = Column.TEXT
    lines = [_line(found, pair, with_text) for pair in found.changed[:limit]]
    return rows_table(f"Changed rows: {shown_of(limit, len(found.changed))}", columns, lines, width)


def _line(found: Comparison, pair: Pair, with_text: bool) -> list[str]:
    how = {Change.RIGHT: "right", Change.WRONG: "wrong"}.get(pair.change)
    cells = [pair.a.row, how or ("right, as A" if pair.a.is_correct else "wrong, as A")]
    if found.is_written:
        cells += [NONE if one.token_f1 is None else f"{one.token_f1:.3f}" for one in (pair.a, pair.b)]
    if not found.is_written or with_text:
        said = ["(kept as a hash)" if one.prediction.startswith(HASHED) else one.prediction for one in (pair.a, pair.b)]
        cells += [truth_of(found, pair) or GONE, *said]
    if with_text:
        row = found.rows.get(pair.a.sha256)
        cells.append(GONE if row is None else row.text)
    return cells


def _uses(found: Comparison) -> list[str]:
    lines = _measure(found)
    for study, one in found.uses.items():
        sentence = one.sentence().removesuffix(WHY).strip()
        lines.append(f"{study}: {sentence}" if len(found.uses) > 1 else sentence)
    return [*lines, WHY] if found.uses else lines
