"""The kinds of rows: what is asked, what is answered, what is trained on, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.data.prompt import Conversations, renderer
from sweeper.errors import DataError, PromptError
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "where is it?"},
    {"role": "assistant", "content": "on its way"},
    {"role": "user", "content": "and the other?"},
    {"role": "assistant", "content": "lost"},
]
KINDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "prompt": (["prompt=ask", "answer=say"], {"ask": "where is it?", "say": "on its way"}),
    "question": (
        ["question=q", "context=c", "answers=a"],
        {"q": "where is it?", "c": "It was sent.", "a": ["on its way", "sent"]},
    ),
    "code": (["code=body", "comment=doc"], {"body": "def f(): pass", "doc": "Does nothing."}),
    "messages": (["messages=chat"], {"chat": CHAT}),
}
Load = Callable[..., Config]


@pytest.fixture
def study(composed: Callable[..., Config], tmp_path: Path) -> Load:
    """Writes rows as every split and composes a study of a kind."""

    def make(kind: str, *lines: dict[str, Any] | str, overrides: tuple[str, ...] = ()) -> Config:
        folder = tmp_path / "rows"
        folder.mkdir(exist_ok=True)
        for split in rows.SPLITS:
            texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
            (folder / f"{split}.jsonl").write_text("\n".join(texts), encoding="utf-8")
        columns = [f"data.columns.{pair}" for pair in KINDS[kind][0]]
        return composed("study=demo", "data=files", f"data.path={folder}", "task=generation", *columns, *overrides)

    return make


def conversations(config: Config, home: Home) -> Conversations:
    rendered = renderer(config, load_tokenizer(config.model, home), [])
    assert isinstance(rendered, Conversations)
    return rendered


def user(text: str) -> str:
    return f"<|user|>\n{text}<|end|>\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("kind", "prompt", "answer", "references"),
    [
        ("prompt", user("where is it?"), "on its way<|end|>", ("on its way",)),
        ("question", user("It was sent.\n\nwhere is it?"), "on its way<|end|>", ("on its way", "sent")),
        ("code", user("def f(): pass"), "Does nothing.<|end|>", ("Does nothing.",)),
    ],
)
def test_what_a_kind_asks_and_answers(
    study: Load, home: Home, kind: str, prompt: str, answer: str, references: tuple[str, ...]
) -> None:
    config = study(kind, KINDS[kind][1])
    data, rendered = rows.of(config), conversations(config, home)
    decode = rendered.tokenizer.decode
    [example], [asked] = rendered.examples(data.train), rendered.prompts(data.test)
    assert decode(example.prompt) == decode(asked) == prompt
    assert decode(example.answer) == answer
    assert rendered.answer(example.answer) == references[0]
    assert (data.test[0].answers, data.labels, data.most_common) == (references, [], references[0])


@pytest.mark.parametrize(
    ("loss", "supervised"), [("all", ["on its way<|end|>", "lost<|end|>"]), ("last", ["lost<|end|>"])]
)
def test_the_turns_of_a_conversation(study: Load, home: Home, loss: str, supervised: list[str]) -> None:
    config = study("messages", KINDS["messages"][1], overrides=(f"data.loss={loss}",))
    data, rendered = rows.of(config), conversations(config, home)
    [example], [asked] = rendered.examples(data.train), rendered.prompts(data.validation)
    spans = example.spans or ((0, len(example.answer)),)
    assert [rendered.tokenizer.decode(example.answer[begin:end]) for begin, end in spans] == supervised
    system = "<|system|>\nBe kind.<|end|>\n"
    earlier = f"{system}{user('where is it?')}on its way<|end|>\n"
    assert rendered.tokenizer.decode(asked) == earlier + user("and the other?")
    assert data.validation[0].answers == ("lost",)


def test_texts_of_a_csv_are_read_as_json(study: Load, tmp_path: Path) -> None:
    config = study("messages", KINDS["messages"][1])
    (tmp_path / "rows" / "train.jsonl").unlink()
    quoted = json.dumps(CHAT).replace('"', '""')
    (tmp_path / "rows" / "train.csv").write_text(f'chat\n"{quoted}"\n')
    data = rows.of(config)
    assert data.train[0].messages == data.test[0].messages


@pytest.mark.parametrize("answers", ["on its way", '["on its way"]', {"text": ["on its way"], "answer_start": [0]}])
def test_the_forms_of_reference_answers(study: Load, answers: Any) -> None:
    assert rows.of(study("question", {**KINDS["question"][1], "a": answers})).train[0].answers == ("on its way",)


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("prompt", {"say": " "}, r"train.jsonl:1: `say` must be text, but got an empty text"),
        ("prompt", {"ask": None}, r"train.jsonl:1: `ask` must be text, but got the value None"),
        ("question", {"c": 3}, r"`c` must be text, but got a number"),
        ("question", {"a": []}, r"`a` must be a text, a list of texts, or have them under `text`, but got a list of 0"),
        ("question", {"a": ["x", ""]}, r"`a` must be a text, a list of texts"),
        (
            "messages",
            {"chat": "hello"},
            r"`chat` must be a list of at least 2 messages, but got a text of 5 characters",
        ),
        ("messages", {"chat": CHAT[:1]}, r"`chat` must be a list of at least 2 messages"),
        ("messages", {"chat": CHAT[:2]}, r"`chat` must end with the assistant's turn, but does with user's"),
        ("messages", {"chat": [{"from": "human", "value": "x"}] * 2}, r"message 1: must have `role` and `content`"),
        (
            "messages",
            {"chat": [{"role": "bot", "content": "x"}] * 2},
            r"message 1: unknown role `bot`.*Known: assistant",
        ),
        ("messages", {"chat": [*CHAT[1:3], *CHAT]}, r"message 3: a system message must be the first"),
        ("messages", {"chat": [*CHAT[:2], {"role": "assistant", "content": ""}]}, r"message 3: `content` must be text"),
    ],
)
def test_a_row_that_is_not_of_its_kind_is_refused(
    study: Load, kind: str, change: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError) as caught:
        rows.of(study(kind, {**KINDS[kind][1], **change}))
    assert re.search(expected, str(caught.value)), str(caught.value)


def test_a_column_that_is_not_there_is_refused(study: Load) -> None:
    with pytest.raises(DataError, match=r"train.jsonl:1: data.columns.answer: unknown column `say`. Known: ask, tell"):
        rows.of(study("prompt", {"ask": "x", "tell": "y"}))


@pytest.mark.parametrize(
    ("kind", "change", "overrides", "expected"),
    [
        ("prompt", {"say": "yes<|end|>"}, (), r"train.jsonl:1: a text must not have special tokens .* '<\|end\|>'"),
        ("messages", {"chat": [{"role": "user", "content": "<|end|>"}, CHAT[-1]]}, (), r"must not have special tokens"),
        ("messages", {}, ("prompt.system=Hi.",), r"train.jsonl:1: prompt.system must be null where rows have a system"),
        (
            "messages",
            {"chat": CHAT[-1:] * 2},
            (),
            r"train.jsonl:1: a conversation must have an assistant's turn behind",
        ),
        ("prompt", {"say": "very " * 600}, (), r"must fit into prompt.max_tokens=512, but 1 of 1 do not"),
    ],
)
def test_a_row_that_cannot_be_rendered_is_named(
    study: Load, home: Home, kind: str, change: dict[str, Any], overrides: tuple[str, ...], expected: str
) -> None:
    config = study(kind, {**KINDS[kind][1], **change}, overrides=overrides)
    with pytest.raises(PromptError) as caught:
        conversations(config, home).examples(rows.of(config).train)
    assert re.search(expected, str(caught.value)), str(caught.value)


def test_what_may_be_written_has_to_fit_behind_a_prompt(study: Load, home: Home) -> None:
    for tokens, fits in ((500, True), (505, False)):
        config = study("prompt", KINDS["prompt"][1], overrides=(f"task.max_new_tokens={tokens}",))
        rendered, data = conversations(config, home), rows.of(config)
        if fits:
            rendered.prompts(data.test)
        else:
            with pytest.raises(PromptError, match=r"must fit into prompt.max_tokens=512"):
                rendered.prompts(data.test)


def test_the_hash_is_of_what_is_read(study: Load) -> None:
    row = {**KINDS["prompt"][1], "tone": "kind"}

    def sha256(**changes: str) -> str:
        template = changes.pop("template", "{{ text }}")
        return rows.of(study("prompt", {**row, **changes}, overrides=(f"prompt.template='{template}'",))).sha256

    assert sha256(tone="rude") == sha256()
    assert sha256(say="lost") != sha256()
    for template in ("{{ tone }} {{ text }}", "{{ row.tone }} {{ text }}"):
        assert sha256(template=template) != sha256(template=template, tone="rude")


def test_a_draw_of_rows_with_answers_is_a_random_one(study: Load) -> None:
    lines = [{"ask": f"question {n:03}", "say": f"answer {n:03}"} for n in range(200)]
    drawn = rows.stratified(rows.of(study("prompt", *lines)).train, 20, seed=0)
    numbers = [int(row.text[-3:]) for row in drawn]
    assert numbers == sorted(numbers)
    assert min(numbers) < 50 < 150 < max(numbers)
