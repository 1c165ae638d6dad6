"""Tasks and a metric as they lie in an installed package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.custom import CustomTask


def cost(rows: Sequence[Mapping[str, Any]], predictions: Sequence[str], wrong: float = 1.0) -> dict[str, float]:
    """What wrong labels cost, on average."""
    wrongs = [row["label"] != prediction for row, prediction in zip(rows, predictions, strict=True)]
    return {"cost": wrong * sum(wrongs) / len(wrongs)}


class Echo(CustomTask):
    """Answers with the label, behind a word."""

    def __init__(self, word: str = "label") -> None:
        self.word = word

    def prompt(self, row: Mapping[str, Any]) -> str:
        return str(row["text"])

    def answer(self, row: Mapping[str, Any]) -> str:
        return f"{self.word} {row['label']}"

    def score(self, rows: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
        right = [self.answer(row) == prediction for row, prediction in zip(rows, predictions, strict=True)]
        return {"score": sum(right) / len(right)}


class Other(Echo):
    """The same again."""
