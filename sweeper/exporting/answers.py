"""Rows with their answers beside them, as JSONL or CSV: read, answered and written block by block."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from sweeper.data.files import Raw
from sweeper.errors import DataError, ExportError
from sweeper.exporting.predict import Answer, Predictor
from sweeper.exporting.rows import Source, blocks
from sweeper.quoting import name_of

PREDICTION, PROBABILITY, PROBABILITIES = "prediction", "probability", "probabilities"
OF_LABEL = "probability of {}"  # a column of a CSV
BLOCK_ROWS = 256  # that are in memory at a time
_DIGITS = 6
_IN_WORDS = (date, time, timedelta, Decimal)  # of Parquet; JSON has no such values


class Form(Protocol):
    """How rows are written; checks a row without writing it, and says what answers are called."""

    def names(self, labels: list[str]) -> list[str]:
        """The names that are added, with the probabilities of these labels, if there are any."""

    def added(self, answer: Answer) -> dict[str, Any]:
        """What is added to a row, under `names`."""

    def line(self, raw: Raw) -> str:
        """A row as text; raises DataError, with its place, where that cannot be."""


class Lines:
    """JSONL: a row as it was, with `prediction`, `probability`, and `probabilities` by label."""

    def names(self, labels: list[str]) -> list[str]:
        return [PREDICTION, PROBABILITY, *([PROBABILITIES] if labels else [])]

    def added(self, answer: Answer) -> dict[str, Any]:
        found: dict[str, Any] = {PREDICTION: answer.text, PROBABILITY: _rounded(answer.probability)}
        if answer.by_label is not None:
            found[PROBABILITIES] = {label: _rounded(value) for label, value in answer.by_label.items()}
        return found

    def line(self, raw: Raw) -> str:
        return _json(*raw) + "\n"


class Table:
    """CSV: the columns of the first row, and one for the probability of each label; values that are no text as JSON."""

    def __init__(self) -> None:
        self._columns: list[str] | None = None

    def names(self, labels: list[str]) -> list[str]:
        return [PREDICTION, PROBABILITY, *map(OF_LABEL.format, labels)]

    def added(self, answer: Answer) -> dict[str, Any]:
        by_label = {OF_LABEL.format(label): _rounded(value) for label, value in (answer.by_label or {}).items()}
        return {PREDICTION: answer.text, PROBABILITY: _rounded(answer.probability), **by_label}

    def line(self, raw: Raw) -> str:
        place, row = raw
        written = io.StringIO(newline="")
        writer = csv.writer(written)
        if self._columns is None:
            self._columns = list(row)
            writer.writerow(self._columns)
        if row.keys() != set(self._columns):
            others = sorted(map(name_of, row.keys() ^ set(self._columns)))
            raise DataError(
                f"{place}: each row of a CSV must have the columns of the first, but only one of the two has "
                f"{', '.join(others)}; --to FILE.jsonl takes rows that differ"
            )
        writer.writerow([_cell(place, row[column]) for column in self._columns])
        text = written.getvalue()
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{place}: a row of a CSV must be Unicode, but has half of a character; --to FILE.jsonl can write it"
            ) from None
        return text


FORMS: dict[str, Callable[[], Form]] = {".jsonl": Lines, ".csv": Table}


def form_of(file: Path, is_replacing: bool) -> Callable[[], Form]:
    """What begins a file, in the form that its ending says.

    Raises:
        ExportError: if it is none, or the file cannot be written, or is there and not to be replaced.
    """
    if file.suffix not in FORMS:
        raise ExportError(f"--to: must be one of {', '.join(FORMS)}, but got {file}")
    if file.is_dir() or not file.parent.is_dir():
        problem = f"{file} is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise ExportError(f"--to: must be a file in a folder that there is, but {problem}")
    if file.exists() and not is_replacing:
        raise ExportError(f"--to: the file must not exist yet, but {file} does; --force replaces it")
    return FORMS[file.suffix]


def check(predictor: Predictor, source: Source, form: Form, weighs: bool) -> int:
    """Goes through all rows without answering them, so that what is wrong with one is known in seconds.

    Returns:
        How many there are.

    Raises:
        DataError, PromptError: naming the row that cannot be asked, or not be written with its answer.
    """
    labels = predictor.task.labels if weighs else []
    added, count = form.names(labels), 0
    blank = dict.fromkeys(added)
    for block in blocks(source(), BLOCK_ROWS):
        for place, row in block:
            if taken := next((name for name in added if name in row), None):
                raise DataError(
                    f"{place}: `{taken}` is added to each row, so none may have it, but this has; "
                    "rename that column, or leave it out"
                )
            form.line((place, {**row, **blank}))
        predictor.prompts([row for _, row in block], [place for place, _ in block])
        count += len(block)
    return count


def answered(
    predictor: Predictor, source: Source, weighs: bool, announce: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Raw, Answer]]:
    """Each row and its answer, in their order.

    Args:
        weighs: whether with the probability of every label.
        announce: is told behind each block how many rows are done.
    """
    done = 0
    for block in blocks(source(), BLOCK_ROWS):
        prompts = predictor.prompts([row for _, row in block], [place for place, _ in block])
        yield from zip(block, predictor.answer(prompts, weighs), strict=True)
        done += len(block)
        announce(done)


def with_answer(raw: Raw, answer: Answer, form: Form) -> Raw:
    """A row with what is added to it."""
    place, row = raw
    return place, {**row, **form.added(answer)}


def _json(place: str, value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=_in_words)
        text.encode()
    except UnicodeEncodeError:  # half of a character, which JSON can write with escapes alone
        return json.dumps(value, default=_in_words)
    except TypeError as error:
        raise DataError(f"{place}: must have values that JSON can write, but {error}; leave that column out") from None
    return text


def _in_words(value: object) -> str:
    if isinstance(value, _IN_WORDS):
        return str(value)
    raise TypeError(f"one is of type {type(value).__name__}")


def _cell(place: str, value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, (str, *_IN_WORDS)) else _json(place, value)


def _rounded(probability: float | None) -> float | None:
    """To so many digits, not places: small ones are told apart too."""
    return None if probability is None else float(f"{probability:.{_DIGITS}g}")
