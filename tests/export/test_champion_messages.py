"""The champion writes the same messages as the study: its code knows nothing of sweeper, so it says them once more."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sweeper.config.schema import Config
from sweeper.data import kinds
from sweeper.data.prompt import renderer
from sweeper.data.row import Row
from sweeper.exporting.champion_model import Champion
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home

FILES = ("study=demo", "data=files", "data.path=/nowhere")
WRITTEN = (*FILES, "task=generation", "task.max_new_tokens=4")
TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes?"},
    {"role": "user", "content": "my parcel"},
]


def champion_of(config: Config, labels: list[str]) -> Champion:
    found = Champion()
    found.manifest = {
        "prompt": config.prompt.model_dump(mode="json"),
        "columns": config.data.columns.model_dump(mode="json"),
        "labels": labels,
    }
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    found.template = environment.from_string(config.prompt.template)
    return found


@pytest.mark.parametrize(
    ("overrides", "row"),
    [
        ((*FILES, "data.columns.text=body"), {"body": "where is it?", "id": 3}),
        (
            (
                *FILES,
                "prompt.system='Be brief.'",
                "prompt.template='{{ text }} ({{ id }}, {{ row.text }}) of {{ labels | join }}\n'",
            ),
            {"text": "where is it?", "id": 3},
        ),
        (
            (*WRITTEN, "data.columns={question: question, context: context, answers: answers}"),
            {"question": "who?", "context": "it was me"},
        ),
        ((*WRITTEN, "data.columns={prompt: asked, answer: said}"), {"asked": "who?"}),
        ((*WRITTEN, "data.columns={messages: turns}", "prompt.system='Be brief.'"), {"turns": TURNS}),
        (
            (*WRITTEN, "data.columns={messages: turns}"),
            {"turns": [*TURNS, {"role": "assistant", "content": "is on its way"}]},
        ),
        ((*WRITTEN, "data.columns={messages: turns}"), {"turns": "a text alone"}),
        ((*WRITTEN, "data.columns={messages: turns}"), {"turns": json.dumps(TURNS)}),
    ],
)
def test_the_messages_are_those_of_the_study(
    composed: Callable[..., Config], home: Home, overrides: tuple[str, ...], row: Mapping[str, Any]
) -> None:
    config = composed(*overrides)
    labels = ["refund", "return"] if config.task.name == "classification" else []
    rendered = renderer(config, load_tokenizer(config.model, home), labels)
    if config.data.columns.messages is not None:
        asked = Row("", "", "", row, messages=kinds.conversation(config.data.columns, row))
    else:
        asked = kinds.asking(config.data.columns, row)
    champion = champion_of(config, labels)
    assert champion.messages(row) == rendered.messages(asked)
    if len(row) == 1:
        [value] = row.values()
        assert [champion.messages(one) for one in champion._rows(value if isinstance(value, str) else [row])] == [
            rendered.messages(asked)
        ]
