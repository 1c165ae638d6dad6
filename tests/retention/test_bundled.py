"""The bundled items: that they are sound, and that nothing but knowing the answer gives it away."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from typing import Any

import pytest

from sweeper.data import tickets

BUNDLED = resources.files("sweeper.retention") / "bundled"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (BUNDLED / name).read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return [word.strip('.,;:?!"()').lower() for word in text.split()]


def shingles(text: str, width: int = 8) -> set[tuple[str, ...]]:
    """Every run of `width` words."""
    all_words = words(text)
    return {tuple(all_words[start : start + width]) for start in range(len(all_words) - width + 1)}


def test_choices_are_sound() -> None:
    found = rows("choices.jsonl")
    assert len(found) == 150
    assert len({row["id"] for row in found}) == len({row["question"] for row in found}) == 150
    for row in found:
        assert set(row) == {"id", "source", "question", "choices", "answer"}
        assert 2 <= len(row["choices"]) <= 4
        assert row["answer"] in range(len(row["choices"]))
        assert len({choice.lower() for choice in row["choices"]}) == len(row["choices"])
        assert row["question"].isprintable()
        assert all(choice.strip() == choice for choice in row["choices"])
        # Otherwise the words of the question alone could say which choice goes with it.
        assert row["choices"][row["answer"]].lower() not in words(row["question"])


@pytest.mark.parametrize("count", [2, 4])
def test_answers_are_spread_evenly(count: int) -> None:
    answers = Counter(row["answer"] for row in rows("choices.jsonl") if len(row["choices"]) == count)
    assert max(answers.values()) - min(answers[place] for place in range(count)) <= 1


@pytest.mark.parametrize("pick", [min, max])
def test_the_length_of_a_choice_does_not_give_it_away(pick: Any) -> None:
    """Whoever takes the shortest choice, or the longest, is right about as often as by chance."""
    found = rows("choices.jsonl")
    hits = expected = 0.0
    for row in found:
        lengths = list(map(len, row["choices"]))
        picked = [place for place, length in enumerate(lengths) if length == pick(lengths)]
        hits += (row["answer"] in picked) / len(picked)
        expected += 1 / len(lengths)
    assert abs(hits - expected) <= 2 * (expected * (1 - expected / len(found))) ** 0.5


@pytest.mark.parametrize(("name", "count"), [("passages.jsonl", 80), ("replay.jsonl", 100)])
def test_texts_are_sound(name: str, count: int) -> None:
    found = rows(name)
    assert len(found) >= count
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        assert set(row) == {"id", "text"}
        assert row["text"].isprintable()
        assert 45 <= len(row["text"].split()) <= 120


def test_what_is_scored_is_neither_trained_on_nor_in_the_bundled_data() -> None:
    passages, replay = rows("passages.jsonl"), rows("replay.jsonl")
    seen = set().union(*(shingles(row["text"]) for row in replay))
    for split in tickets.splits().values():
        seen |= set().union(*(shingles(row["text"]) for row in split))
    assert not [row["id"] for row in passages if shingles(row["text"]) & seen]
    assert not [row["id"] for row in rows("choices.jsonl") if shingles(row["question"], 6) & seen]
