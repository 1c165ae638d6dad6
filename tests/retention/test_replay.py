"""Replay's passages: what is read of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.schema import Config
from sweeper.data.example import Example
from sweeper.errors import DataError
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home
from sweeper.preflight.forecast import Lengths
from sweeper.retention import suite
from sweeper.retention.replay import Replay, has_replay

ROWS = [Example((1, 2, 3), (4, 5)), Example((1, 2), (3, 4, 5, 6), weight=0.5)]


def replay(config: Config, home: Home) -> Replay:
    return Replay.of(config, load_tokenizer(config.model, home), ROWS)


def test_bundled_passages_are_read_whole_and_weigh_a_row_each(composed_once: Callable[..., Config], home: Home) -> None:
    found = replay(composed_once("study=demo"), home)
    assert (len(found.examples), found.cut) == (100, 0)
    for passage in found.examples:
        assert len(passage.prompt) == 1
        assert passage.supervised_tokens == len(passage) - 1
        assert passage.supervised_tokens * passage.weight == pytest.approx(2.0)  # (2 × 1 + 4 × 0.5) / 2
    cut = replay(config := composed_once("study=demo", "prompt.max_tokens=40"), home)
    assert (cut.cut, max(map(len, cut.examples))) == (100, 40)
    assert cut.notes(config) == [
        "train.replay_text: of 100 of 100 passages, only the first 40 tokens are read (prompt.max_tokens)"
    ]
    assert found.notes(config) == []


def test_a_file_of_ones_own(composed_once: Callable[..., Config], home: Home, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"text": f"The cat sat on mat {n}."}) + "\n" for n in range(3)))
    config = composed_once("study=demo", f"train.replay_text={file}")
    found = replay(config, home)
    assert len(found.examples) == 3
    found.hold_to(None)
    found.hold_to(found.sha256)
    file.write_text(file.read_text().replace("cat", "dog"))
    with pytest.raises(DataError, match=r"train\.replay_text: a study keeps the passages that it was begun with"):
        replay(config, home).hold_to(found.sha256)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, r"must be bundled or a JSONL file, but there is no such file: .*none\.jsonl"),
        ("some.txt", "a b", r"must be bundled or a JSONL file, but is another one: .*some\.txt"),
        ("one.jsonl", '{"text": "a b"}\n', r"must have two items or more, but .*one\.jsonl has 1"),
        ("x.jsonl", '{"text": "a b"}\n{"body": "a b"}\n', r"x\.jsonl:2: `text` .* but is missing; the row has body"),
        ("x.jsonl", '{"text": "a b"}\n{"text": 3}\n', r"x\.jsonl:2: `text` .* but is a number"),
        ("x.jsonl", '{"text": "word"}\n{"text": "a b"}\n', r"x\.jsonl:1: `text` .* two words or more, but is one word"),
    ],
)
def test_what_is_no_text_is_refused(
    composed_once: Callable[..., Config], home: Home, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message):
        replay(composed_once("study=demo", f"train.replay_text={file}"), home)


def test_what_retention_is_measured_on_is_not_trained_on(
    composed_once: Callable[..., Config], home: Home, tmp_path: Path
) -> None:
    config = composed_once("study=demo")
    passage = suite.load(config.retention).passages[3]
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "a b"}\n' + json.dumps({"text": f"  {passage.text}\n"}) + "\n")
    with pytest.raises(
        DataError, match=rf"none of the texts that retention is measured on, but 1 of 2 .*:2 is {passage.id}"
    ):
        replay(composed_once("study=demo", f"train.replay_text={file}"), home)


def test_the_memory_of_passages_is_known_where_a_trial_may_read_them(composed_once: Callable[..., Config]) -> None:
    assert not has_replay(composed_once("study=demo"))
    assert has_replay(composed_once("study=demo", "train.replay=0.1"))
    assert has_replay(composed_once("study=demo", "+search.space.replay=[0.0,0.25]"))
    lengths = Lengths.of(ROWS, [(1, 2, 3)], replay=[Example((1,), (2,) * 20)])
    assert (lengths.longest, lengths.shortest, lengths.answer) == (21, 5, 20)
