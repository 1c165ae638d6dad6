"""Rows that are too long: blocked, cut in their text alone, or dropped, and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.data import long, rows
from sweeper.data.prompt import Conversations, Renderer, renderer
from sweeper.errors import DataError, PromptError
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home

LIMIT = 24
LONG = " ".join(f"word{n}" for n in range(40))
Study = Callable[..., tuple[rows.TaskData, Any]]


@pytest.fixture
def study(composed: Callable[..., Config], home: Home, tmp_path: Path) -> Study:
    """Writes rows as every split; gives what a study reads of them, and what renders them."""

    def make(lines: list[dict[str, Any]], *overrides: str) -> tuple[rows.TaskData, Renderer | Conversations]:
        for split in rows.SPLITS:
            (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        config = composed("study=demo", "data=files", f"data.path={tmp_path}", f"prompt.max_tokens={LIMIT}", *overrides)
        data = rows.of(config)
        return data, renderer(config, load_tokenizer(config.model, home), data.labels)

    return make


LABELLED = [{"text": "hello", "label": "a"}, {"text": LONG, "label": "b"}, {"text": "hi", "label": "b"}]


@pytest.mark.parametrize("policy", ["cut_text_head", "cut_text_tail"])
@pytest.mark.parametrize("name", ["text", "row.text"])
def test_the_text_is_cut_as_little_as_it_must_be(study: Study, policy: str, name: str) -> None:
    data, rendered = study(LABELLED, f"prompt.template='Say: {{{{ {name} }}}} Now.'")
    fitted = long.fit(rendered, data, policy)
    for split in rows.SPLITS:
        first, cut, last = getattr(fitted.data, split)
        assert (first, last) == (getattr(data, split)[0], getattr(data, split)[2])
        assert LONG.startswith(cut.text) if policy == "cut_text_tail" else LONG.endswith(cut.text)
        assert LIMIT - 3 <= rendered.length(cut, is_scored=split != "train") <= LIMIT
        assert (cut.label, cut.place) == ("b", f"{split}.jsonl:2")
    example = rendered.examples(fitted.data.train)[1]
    text = rendered.tokenizer.decode(example.tokens)
    assert text.startswith("<|user|>\nSay: ")
    assert text.endswith(" Now.<|end|>\n<|assistant|>\nb<|end|>")
    rendered.prompts(fitted.data.test)
    assert fitted.counts == {split: {"rows": 3, "cut": 1, "dropped": 0} for split in rows.SPLITS}
    assert fitted.notes(policy, LIMIT) == [
        f"data.long={policy}: 1 of 3 rows of train cut, 1 of 3 rows of validation cut, 1 of 3 rows of test cut, to fit "
        f"into prompt.max_tokens={LIMIT}"
    ]


def test_rows_are_dropped(study: Study) -> None:
    data, rendered = study(LABELLED)
    fitted = long.fit(rendered, data, "drop")
    assert [row.text for row in fitted.data.validation] == ["hello", "hi"]
    assert fitted.counts["test"] == {"rows": 3, "cut": 0, "dropped": 1}
    assert "1 of 3 rows of train dropped" in fitted.notes("drop", LIMIT)[0]
    data, rendered = study(LABELLED[:2])
    with pytest.raises(DataError, match=r"data.long=drop must leave training rows of each label, but none of b fits"):
        long.fit(rendered, data, "drop")


def test_they_block_by_default(study: Study) -> None:
    data, rendered = study(LABELLED)
    fitted = long.fit(rendered, data, "block")
    assert (fitted.data, fitted.counts, fitted.notes("block", LIMIT)) == (data, {}, [])
    with pytest.raises(PromptError, match=r"1 of 3 do not; the longest has \d+ tokens \(train.jsonl:2\)"):
        rendered.examples(fitted.data.train)


def test_a_row_whose_template_alone_is_too_long_is_named(study: Study) -> None:
    data, rendered = study(LABELLED, f"prompt.template='{LONG} {{{{ text }}}}'")
    with pytest.raises(PromptError, match=r"train.jsonl:1: a row must fit into prompt.max_tokens=24 with its text cut"):
        long.fit(rendered, data, "cut_text_tail")


def test_a_question_and_an_answer_are_never_cut(study: Study) -> None:
    columns = ("data.columns.question=q", "data.columns.context=c", "data.columns.answers=a")
    line = {"q": "which word?", "c": LONG, "a": ["word3 it is"]}
    data, rendered = study([line], "task=generation", "task.max_new_tokens=4", *columns)
    [cut] = long.fit(rendered, data, "cut_text_tail").data.train
    assert cut.text.endswith("\n\nwhich word?")
    assert LONG.startswith(cut.columns["c"])
    assert cut.text == cut.columns["c"] + "\n\nwhich word?"
    assert cut.answers == ("word3 it is",)
    assert LIMIT - 3 <= rendered.length(cut, is_scored=False) <= LIMIT
    too_long = {"q": "hm?", "c": "word", "a": [LONG]}
    data, rendered = study([too_long], "task=generation", "task.max_new_tokens=4", *columns)
    with pytest.raises(PromptError, match=r"train.jsonl:1: a row must fit .* question and answer alone take more"):
        long.fit(rendered, data, "cut_text_tail")
