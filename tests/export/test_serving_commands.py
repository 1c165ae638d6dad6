"""What is composed of an export's manifest: vLLM's command, and requests with the study's prompt."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from sweeper.errors import ExportError
from sweeper.exporting.serving_commands import (
    curl_snippet,
    notes,
    python_snippet,
    request,
    vllm_command,
)


@pytest.fixture
def manifest() -> dict[str, Any]:
    """Of an export, what serving reads of it."""
    return {
        "study": "demo",
        "format": "adapter",
        "model": {"quant": "nf4", "dtype": "auto", "trust_remote_code": False},
        "lora": {"rank": 8},
        "prompt": {"system": None, "template": "{{ text }}"},
        "task": {"name": "classification"},
        "columns": {"text": "text", "label": "label"},
        "long": "block",
        "labels": ["a", "b"],
        "sha256": {"chat_template.jinja": ""},
    }


@pytest.mark.parametrize(("rank", "told"), [(1, 8), (8, 8), (9, 16), (64, 64), (200, 256), (257, 320), (512, 512)])
def test_vllm_is_told_a_rank_that_it_knows(manifest: dict[str, Any], rank: int, told: int) -> None:
    manifest["lora"]["rank"] = rank
    assert vllm_command(manifest, "/my/adapter", "org/base", "tickets", revision="c0ffee", port=9000) == [
        *("vllm", "serve", "org/base", "--revision", "c0ffee", "--tokenizer", "/my/adapter"),
        *("--quantization", "bitsandbytes", "--enable-lora", "--lora-modules", "tickets=/my/adapter"),
        *("--max-lora-rank", str(told), "--chat-template", "/my/adapter/chat_template.jinja"),
        *("--override-generation-config", '{"temperature": 0.0, "repetition_penalty": 1.0}'),
        *("--host", "127.0.0.1", "--port", "9000"),
    ]


def test_vllm_is_told_what_the_study_says(manifest: dict[str, Any]) -> None:
    manifest["model"] |= {"quant": "none", "dtype": "bfloat16", "trust_remote_code": True}
    del manifest["sha256"]["chat_template.jinja"]
    told = vllm_command(manifest, "/a=b", "org/base", chat_template="{{ messages }}")
    assert "--quantization" not in told
    assert "--trust-remote-code" in told
    assert told[told.index("--dtype") + 1] == "bfloat16"
    assert told[told.index("--chat-template") + 1] == "{{ messages }}"
    assert json.loads(told[told.index("--lora-modules") + 1]) == {"name": "demo", "path": "/a=b"}
    manifest["lora"]["rank"] = 513
    with pytest.raises(ExportError, match="adapters up to rank 512, but this one has 513"):
        vllm_command(manifest, "/a", "org/base")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ text }}", "some text"),
        ("Which one?\n\n{{ text }}\n", "Which one?\n\nsome text\n"),
        ("{{ title }}: {{ text }} of {{ labels | join('/') }}", "some text: some text of a/b"),
        ("{% if row.title %}{{ row['a b'] }}{% endif %} {{ text }}", "some text some text"),
    ],
)
def test_a_request_has_the_study_prompt(manifest: dict[str, Any], template: str, message: str) -> None:
    manifest |= {"labels": ["a", "b"], "prompt": {**manifest["prompt"], "template": template, "system": "Be brief."}}
    url = "http://127.0.0.1:1/v1"
    sent = json.loads(shlex.split(curl_snippet(manifest, url))[-1])
    assert [one["content"] for one in sent["messages"]] == ["Be brief.", message]
    snippet = python_snippet(manifest, url).partition("client = ")[0].replace("from openai import OpenAI", "")
    known: dict[str, Any] = {}
    exec(snippet, known)  # up to where a client is made
    assert known["message"] == message
    assert sent["structured_outputs"] == {"choice": ["a", "b"]}
    assert sent["temperature"] == 0


def test_what_a_request_must_know_is_said(manifest: dict[str, Any]) -> None:
    assert notes(manifest) == []
    own = {"name": "custom", "_target_": "mine.Own", "arguments": {}, "max_new_tokens": 7}
    manifest |= {"task": own, "labels": [], "long": "cut_text_tail"}
    said = " ".join(notes(manifest))
    assert "what the study's own task, mine.Own, writes for a row" in said
    assert "the server does not: whoever asks has to" in said
    body = request(manifest, "demo", [], end=5)
    assert (body["max_tokens"], body["stop_token_ids"]) == (7, [5])
    assert "structured_outputs" not in body
    assert "'stop_token_ids': [5]" in python_snippet(manifest, "http://127.0.0.1:1/v1", end=5)
