"""A suite that a test writes itself: plain English, of no task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.config.schema import RetentionSection

CHOICES = [
    ("What do bees make?", ["honey", "bricks", "glass"], 0),
    ("Which of these is cold?", ["fire", "ice"], 1),
    ("How many legs does a spider have?", ["two", "four", "eight", "a hundred of them"], 2),
    ("What falls from clouds?", ["rain", "sand and small stones"], 0),
    ("What is used to cut bread?", ["a pillow", "a knife"], 1),
]
PASSAGES = [
    "The river rises in the hills and flows past two old towns before it comes to the sea.",
    "Iron is a metal. It rusts where water and air come to it, and is strong where carbon is in it.",
    "A library lends books. Most of them have a catalogue in which each book has a number of its own.",
    "The moon goes round the earth in about a month, and always shows it the same side.",
    "Bread is made from flour, water and salt; yeast makes the dough rise before it is baked.",
]


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def choice_rows() -> list[dict[str, object]]:
    return [
        {"id": f"c{number}", "source": "own", "question": question, "choices": choices, "answer": answer}
        for number, (question, choices, answer) in enumerate(CHOICES)
    ]


def passage_rows() -> list[dict[str, object]]:
    return [{"id": f"p{number}", "text": text} for number, text in enumerate(PASSAGES)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Files with choices and with passages."""
    made = tmp_path / "choices.jsonl", tmp_path / "passages.jsonl"
    for file, rows in zip(made, (choice_rows(), passage_rows()), strict=True):
        file.write_text(lines(rows), encoding="utf-8")
    return made


def section(choices: object, passages: object, **changes: object) -> RetentionSection:
    values = {"max_drop": 0.05, "max_rise": 0.25, "sample": 32, "max_tokens": 128, "stop_wrecked": True, **changes}
    named = [str(value) if value is not None else None for value in (choices, passages)]
    return RetentionSection.model_validate({"choices": named[0], "passages": named[1], "lm_eval": [], **values})
