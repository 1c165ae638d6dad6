"""`sweeper predict`: texts or rows, answered by what was exported."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweeper.errors import DataError, ExportError
from sweeper.launching.remaining import about
from sweeper.paths import Home, opened_atomically

if TYPE_CHECKING:
    from sweeper.exporting.answers import Form
    from sweeper.exporting.predict import Answer, Predictor
    from sweeper.exporting.rows import Source

_SHOWN = 5  # labels of a text whose probabilities a person is shown
_CLEAR = "\r\x1b[K"  # the line on a terminal


@dataclass(frozen=True)
class Asked:
    """The command's options; `sweeper predict --help` says what each is."""

    folder: Path
    texts: tuple[str, ...]
    rows: Path | None
    to: Path | None
    is_replacing: bool
    weighs: bool
    trusts_code: bool
    as_json: bool


def show(home: Home, asked: Asked) -> None:
    """Answers what is asked, and prints or writes it; raises for what stops it."""
    _check(asked)
    from sweeper.exporting.answers import Lines, check, form_of
    from sweeper.exporting.predict import Predictor

    form = form_of(asked.to, asked.is_replacing) if asked.to is not None else Lines
    source = None if asked.texts else _rows(asked)
    predictor = Predictor.load(asked.folder, home, asked.trusts_code, asked.weighs)
    source = source or _texts(asked, predictor)
    count = check(predictor, source, form(), asked.weighs)
    if asked.to is not None:
        _write(predictor, source, form(), asked, asked.to, count)
    elif asked.texts and not asked.as_json:
        _print_texts(predictor, source, asked.weighs)
    else:
        _print_rows(predictor, source, form(), asked.weighs, count)


def _check(asked: Asked) -> None:
    if asked.texts and asked.rows is not None:
        raise click.UsageError("texts and --rows exclude each other")
    if asked.is_replacing and asked.to is None:
        raise click.UsageError("--force replaces the file of --to, which is not given")
    if not asked.texts and asked.rows is None and sys.stdin.isatty():
        raise click.UsageError("give texts, --rows FILE, or JSONL on standard input: sweeper predict DIR < rows.jsonl")


def _rows(asked: Asked) -> Source:
    from sweeper.exporting import rows

    if asked.rows is not None:
        return rows.of_file(asked.rows)
    return rows.of_lines(sys.stdin.buffer)


def _texts(asked: Asked, predictor: Predictor) -> Source:
    from sweeper.exporting import rows

    if predictor.own is not None:
        raise DataError(
            "a task of one's own reads rows, not texts: give them with --rows or as JSONL on standard input"
        )
    if predictor.text_column is None:
        raise DataError(
            "a text alone must be all that a row asks, but this task asks with more than one column; "
            "give rows with --rows or as JSONL on standard input"
        )
    return rows.of_texts(asked.texts, predictor.text_column)


def _write(predictor: Predictor, source: Source, form: Form, asked: Asked, file: Path, count: int) -> None:
    """Writes all rows with their answers; the file is whole or not there."""
    from sweeper.exporting.answers import answered, with_answer

    try:
        with opened_atomically(file) as opened:
            for raw, answer in answered(predictor, source, asked.weighs, _progress(count, is_shown=True)):
                opened.write(form.line(with_answer(raw, answer, form)).encode())
    except OSError as error:
        raise ExportError(f"--to: must be a file that can be written, but {file}: {error.strerror}") from error
    if asked.as_json:
        click.echo(json.dumps({"file": str(file.absolute()), "rows": count}))
    else:
        click.echo(f"{count:,} row{'s' if count != 1 else ''} with `prediction` and `probability`: {file}")


def _print_rows(predictor: Predictor, source: Source, form: Form, weighs: bool, count: int) -> None:
    from sweeper.exporting.answers import answered, with_answer

    for raw, answer in answered(predictor, source, weighs, _progress(count, is_shown=not sys.stdout.isatty())):
        click.echo(form.line(with_answer(raw, answer, form)), nl=False)


def _print_texts(predictor: Predictor, source: Source, weighs: bool) -> None:
    """For a person: what was predicted, or a table of the likeliest labels."""
    from sweeper.exporting.answers import answered

    for place, ((_, row), answer) in enumerate(answered(predictor, source, weighs)):
        if answer.by_label is None:
            click.echo(answer.text)
        else:
            click.echo("\n" * (place > 0) + "\n".join([*row.values(), *_table(answer)]))


def _table(answer: Answer) -> list[str]:
    """The likeliest labels, always with that which was predicted, and what the others have together."""
    assert answer.by_label is not None
    by_label = sorted(answer.by_label.items(), key=lambda item: -item[1])
    shown = [item for place, item in enumerate(by_label) if place < _SHOWN or item[0] == answer.text]
    others = [item for item in by_label if item not in shown]
    lines = [*shown, *([(f"{len(others)} more", sum(share for _, share in others))] if others else [])]
    width = max(len(label) for label, _ in lines)
    is_first = by_label[0][0] == answer.text
    marks = ["  (predicted)" * (label == answer.text and not is_first) for label, _ in lines]
    return [
        f"  {label:<{width}}  {_percent(share):>6}{mark}" for (label, share), mark in zip(lines, marks, strict=True)
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "<0.1%"


def _progress(count: int, is_shown: bool) -> Callable[[int], None]:
    """Says on standard error how many rows are done, where that is a terminal that nothing else is printed on."""
    began_s = time.monotonic()

    def say(done: int) -> None:
        per_s = done / max(time.monotonic() - began_s, 1e-3)
        left = f", {about((count - done) / per_s)} left" if done < count else ""
        line = f"{_CLEAR}{done:,} of {count:,} rows, {per_s:,.3g} rows/s{left}"
        click.echo(line, nl=done == count, err=True)

    return say if is_shown and sys.stderr.isatty() else lambda _: None
