"""The wrong rows as a CSV file, with their text: for the person, and for MLflow where `tracking.log_text` says so."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from sweeper.mistakes.counts import worst
from sweeper.mistakes.joined import Joined, Judged
from sweeper.paths import write_atomically

COLUMNS = ("row", "sha256", "truth", "prediction", "base_prediction", "confidence", "token_f1", "tokens", "text")


def record(one: Judged) -> dict[str, object]:
    """A row of the table; None is what is not known."""
    values = one.kept.model_dump() | {
        "truth": one.truth,
        "base_prediction": None if one.base is None else one.base.prediction,
        "text": one.text,
    }
    return {column: values[column] for column in COLUMNS}


def write_csv(joined: Joined, file: Path) -> None:
    """Writes all wrong rows, in place of what there was."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(map(record, worst(joined)))
    write_atomically(file, text.getvalue())
