"""A comparison as JSON, and its changed rows as a CSV file; texts are in them only where a person asks for that."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from sweeper.comparison.compared import Comparison
from sweeper.comparison.costs import Costs
from sweeper.comparison.paired import Change, Pair
from sweeper.comparison.sides import Side
from sweeper.errors import StoreError
from sweeper.paths import write_atomically

COLUMNS = (
    "row",
    "row_b",
    "sha256",
    "change",
    "truth",
    "a",
    "b",
    "confidence_a",
    "confidence_b",
    "token_f1_a",
    "token_f1_b",
    "text",
)


def truth_of(found: Comparison, pair: Pair) -> str | None:
    """The right label, or the reference answers; None where these are not known."""
    if pair.a.truth is not None:
        return pair.a.truth
    row = found.rows.get(pair.a.sha256)
    return " | ".join(row.answers) if row is not None else None


def record(found: Comparison, pair: Pair, with_text: bool) -> dict[str, object]:
    """A row of the table; None is what is not known, and without `with_text` what is a text."""
    a, b, row = pair.a, pair.b, found.rows.get(pair.a.sha256)
    says = with_text or not found.is_written
    return {
        "row": a.row,
        "row_b": b.row,
        "sha256": a.sha256,
        "change": pair.change.value,
        "truth": truth_of(found, pair) if says else None,
        "a": a.prediction if says else None,
        "b": b.prediction if says else None,
        "confidence_a": a.confidence,
        "confidence_b": b.confidence,
        "token_f1_a": a.token_f1,
        "token_f1_b": b.token_f1,
        "text": row.text if row is not None and with_text else None,
    }


def write_csv(found: Comparison, file: Path, with_text: bool) -> None:
    """Writes all changed rows, in place of what there was; raises StoreError if the file cannot be written."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(record(found, pair, with_text) for pair in found.changed)
    try:
        write_atomically(file.expanduser().absolute(), text.getvalue())
    except OSError as error:
        raise StoreError(f"--csv must be a file that can be written, but {file}: {error.strerror}") from None


def as_dict(found: Comparison, limit: int | None, with_text: bool) -> dict[str, Any]:
    """`compare --json`."""
    return {
        "split": found.split,
        "rows": len(found.pairs),
        "metric": found.metric,
        "a": _side(found.a, found.costs[0]),
        "b": _side(found.b, found.costs[1]),
        "verdict": found.differences[found.metric].verdict.value,
        "metrics": {name: one.as_dict() for name, one in found.differences.items()},
        "left_out": found.left_out,
        "right_wrong": found.right_wrong.as_dict(),
        "changed": {
            "count": len(found.changed),
            **{change.value: found.count(change) for change in Change},
            "rows": [record(found, pair, with_text) for pair in found.changed[:limit]],
        },
        "test_use": {study: one.as_dict() for study, one in found.uses.items()},
        "notes": found.notes,
    }


def _side(side: Side, cost: Costs) -> dict[str, Any]:
    return {
        "name": side.name,
        "study": side.study,
        "trial": side.trial,
        "trained_as": side.trained_as,
        "folder": str(side.folder) if side.folder is not None else None,
        "is_exported": side.is_exported,
        "params": side.view.params if side.view is not None else None,
        **cost.as_dict(),
    }
