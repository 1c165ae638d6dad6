"""Rows that are to be answered: of a file, of standard input, or texts alone; each with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from sweeper.data import files
from sweeper.data.files import Raw
from sweeper.errors import DataError

STANDARD_INPUT = "standard input"
Source = Callable[[], Iterable[Raw]]  # all rows from the first on, each time that it is called


def of_file(file: Path) -> Source:
    """The rows of a file, which are read anew each time; a place is `tickets.jsonl:17`.

    Raises:
        DataError: if it is no such file; while they are read: if it cannot be, or has no rows.
    """
    if file.suffix not in files.ENDINGS:
        raise DataError(f"--rows: must be one of {', '.join(files.ENDINGS)}, but got {file}")
    return partial(_each, file)


def _each(file: Path) -> Iterator[Raw]:
    has_rows = False
    try:
        for raw in files.each_of_file(file, file.name):
            has_rows = True
            yield raw
    except OSError as error:
        raise DataError(f"--rows: must be a file that can be read, but {file}: {error.strerror}") from None
    if not has_rows:
        raise DataError(f"--rows: must have rows, but {file} has none")


def of_lines(lines: Iterable[bytes]) -> Source:
    """The rows of JSONL on standard input, which is read once, and whole.

    Raises:
        DataError: naming the lines that are no JSON object.
    """
    rows = list(files.each_of_lines(lines, STANDARD_INPUT))
    return lambda: rows


def of_texts(texts: Iterable[str], column: str) -> Source:
    """Texts alone, each as a row with one column."""
    rows: list[Raw] = [(f"text {number}", {column: text}) for number, text in enumerate(texts, start=1)]
    return lambda: rows


def blocks(rows: Iterable[Raw], size: int) -> Iterator[list[Raw]]:
    """The rows, so many at a time."""
    left = iter(rows)
    while block := list(islice(left, size)):
        yield block
