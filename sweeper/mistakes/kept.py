"""Predictions as a study keeps them: JSON, a line for each row, with the row's place and hash and none of its text.

What a task writes itself is text too, derived from the row's: like everything here it stays in the study's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from sweeper.errors import StoreError
from sweeper.paths import write_atomically

HASHED = "sha256:"  # what an export keeps of a written answer in place of its text begins so


def hashed(text: str) -> str:
    """What stands in place of a text: of texts that are the same, the same."""
    return HASHED + hashlib.sha256(text.encode("utf-8")).hexdigest()


class Kept(BaseModel):
    """The prediction for one row.

    Attributes:
        row: its place, such as `validation.jsonl:17`.
        sha256: of its text and of what is right (`sweeper.data.row.Row.sha256`).
        tokens: of its prompt.
        confidence: the probability that the model gave its prediction; None where that is not known.
        truth: the right label; None where answers are written.
        token_f1: of a written answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    sha256: str
    tokens: int
    prediction: str
    confidence: FiniteFloat | None = None
    is_correct: bool
    truth: str | None = None
    token_f1: float | None = None


def write(file: Path, predictions: Sequence[Kept]) -> None:
    """Writes them in place of what there was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(f"{kept.model_dump_json(exclude_none=True)}\n" for kept in predictions))


def read(file: Path) -> list[Kept]:
    """Reads them.

    Raises:
        StoreError: if they are not what was written.
    """
    try:
        # Not by `splitlines`: a text may have separators of lines in it that JSON leaves as they are.
        lines = file.read_text(encoding="utf-8").split("\n")
        return [Kept.model_validate_json(line) for line in lines if line]
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        problem = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise StoreError(f"{file} must have a prediction in each line, but cannot be read ({problem})") from None
