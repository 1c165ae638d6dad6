"""Rows that are there twice: which pairs are alike, and what that means in which splits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.data import splits, tickets
from sweeper.data.likeness import near, question_of
from sweeper.data.row import Row
from sweeper.preflight.data.suspects import suspects
from tests.preflight.data.conftest import Check, add, found, read

TEXT = (
    "I have been waiting for the blue lamp since two weeks ago, and the courier says that order 1234 never left your "
    "warehouse; what can you do about it, for I am travelling at the moment"
)


def jaccard(one: str, other: str) -> float:
    sets = [{tuple(text.split()[n : n + 3]) for n in range(len(text.split()) - 2)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_is_what_it_says() -> None:
    words = [f"w{n}" for n in range(40)]
    texts = [" ".join(words)]
    for changed in (1, 2, 3, 6, 12):  # one word after another, far apart
        texts.append(" ".join(f"x{n}" if n % 3 == 0 and n < 3 * changed else word for n, word in enumerate(words)))
    expected = {(a, b) for a in range(6) for b in range(a + 1, 6) if jaccard(texts[a], texts[b]) >= 0.8}
    assert expected
    assert set(near([(text, "") for text in texts])) == expected
    assert list(near([("a b", ""), ("a b c", "")])) == []  # too short to be told
    assert list(near([(texts[0], "one context"), (texts[1], "another")])) == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_leak_is_an_error_and_one_that_is_nearly_one_a_warning(checked: Check, folder: Path, split: str) -> None:
    add(folder, "train", text=TEXT, label="late delivery")
    first = read(folder, "train")[0]
    add(folder, split, text=f" {first['text']}", label=first["label"])
    add(folder, split, text=TEXT.upper().replace(",", ""), label="late delivery")
    add(folder, split, text=TEXT.replace("blue", "red"), label="late delivery")
    codes = found(checked())
    where = "train or validation" if split == "test" else "train"
    assert codes[f"leak-{split}"].startswith(f"leak-{split}: 1 of 39 rows of {split} are in {where} too, so that")
    assert codes[f"leak-{split}"].endswith(f"{split}.jsonl:37")
    assert codes[f"near-leak-{split}"].endswith(f"{split}.jsonl:38, {split}.jsonl:39")
    assert "contradictions" not in codes


def test_validation_rows_in_test_are_a_leak(checked: Check, folder: Path) -> None:
    add(folder, "test", **read(folder, "validation")[0])
    assert found(checked())["leak-test"].endswith("test.jsonl:37")


def test_two_labels_of_one_text_are_an_error(checked: Check, folder: Path) -> None:
    add(folder, "train", text=TEXT, label="late delivery")
    add(folder, "train", text=TEXT.lower(), label="damaged item")
    codes = found(checked())
    assert codes["contradictions"].endswith("one of them is wrong: train.jsonl:97, train.jsonl:98")
    assert codes["duplicates"].endswith("train.jsonl:98")


def test_what_tells_forgetting_must_not_be_learned(checked: Check, folder: Path, tmp_path: Path) -> None:
    asked = ["Which gas do plants take in?", read(folder, "train")[3]["text"], TEXT]
    items = [{"id": str(n), "question": text, "choices": ["a", "b"], "answer": 0} for n, text in enumerate(asked)]
    suite = tmp_path / "suite.jsonl"
    suite.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    add(folder, "train", text=TEXT.replace("blue", "red"), label="late delivery")
    codes = found(checked(f"retention.choices={suite}", "retention.passages=null"))
    assert codes["leak-retention"].startswith("leak-retention: 1 of 3 texts of retention are in train too")
    assert codes["leak-retention"].endswith("retention item 1")
    assert codes["near-leak-retention"].endswith("retention item 2")


def test_questions_on_one_context_are_not_alike() -> None:
    def row(context: str, question: str) -> tuple[str, int]:
        text = f"{context}\n\n{question}"
        return question_of(Row(text, "", "", source="context", fixed=len(question) + 2)), len(question)

    assert row("A lamp, that is blue!", "What is blue?") == row("a lamp that is blue", "what is Blue?")
    assert row("3 * 4", "How much?") != row("3 + 4", "How much?")


def test_rows_that_ask_the_same_are_cut_into_the_same_split() -> None:
    rows = [Row(f"{'Please' if n % 2 else 'please'} stop {n // 2}", "xy"[n // 2 % 2], f"r:{n}") for n in range(80)]
    cut = splits.cut(rows, {"validation": 0.2, "test": 0.2}, None, seed=0)
    asked = {split: {question_of(row) for row in found} for split, found in cut.items()}
    assert sum(map(len, asked.values())) == 40
    assert len(cut["validation"]) == pytest.approx(16, abs=2)


def test_flipped_labels_are_suspected() -> None:
    """A hint: half of them, and next to no others. Of real rows: tests/benchmarks/data_doctor.py."""
    rows = [Row(row["text"], row["label"], row["id"]) for row in tickets.splits()["train"][:1200]]
    assert len(suspects(rows)[1]) <= 3
    labels = sorted({row.label for row in rows})
    flipped = {n: labels[labels.index(rows[n].label) - 5] for n in range(7, 1200, 120)}
    changed = [replace(row, label=flipped.get(n, row.label)) for n, row in enumerate(rows)]
    looked_at, doubtful = suspects(changed)
    hits = {row.place for row in doubtful} & {rows[n].place for n in flipped}
    assert looked_at == 1200
    assert len(hits) >= 3
    assert len(doubtful) - len(hits) <= 4
    assert suspects(rows[:50]) == (0, [])  # too few to tell
