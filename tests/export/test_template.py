"""What an export has beside its adapter: the chat template of the study, and room to lie in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sweeper.config.schema import Config
from sweeper.errors import StoreError
from sweeper.export import export
from sweeper.paths import Home

OWN = (
    "{{ tone }}{% for m in messages %}<|{{ m.role }}|>{{ strftime_now('%d %b %Y') }}: "
    "{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ strftime_now('%d %b %Y') }}: {% endif %}"
)


@pytest.mark.parametrize("is_own", [True, False])
def test_the_template_travels(composed: Callable[..., Config], home: Home, tmp_path: Path, is_own: bool) -> None:
    (tmp_path / "own.jinja").write_text(OWN)
    overrides = [f"prompt.chat_template={tmp_path / 'own.jinja'}", "+prompt.chat_template_kwargs.tone=kind"]
    config = composed("study=demo", *(overrides if is_own else []))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / export.CONFIG).write_text("{}")
    manifest = {"prompt": config.prompt.model_dump(mode="json")}
    export._write(tmp_path / "out", adapter, manifest, config.model.model_dump(), home)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    own = "kind<|user|>26 Jul 2024: hi<|end|><|assistant|>26 Jul 2024: "
    assert text == (own if is_own else "<|user|>\nhi<|end|>\n<|assistant|>\n")
    written = json.loads((tmp_path / "out" / export.MANIFEST).read_text())
    assert written["prompt"]["chat_template"] == (OWN if is_own else None)


def test_a_full_disk_is_said_before_anything_is_written(
    composed: Callable[..., Config], home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, adapter = composed("study=demo"), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(bytes(1000))
    usage = shutil.disk_usage(tmp_path)._replace(free=export.TOKENIZER_BYTES + 999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        StoreError, match=r"must have room .* the adapter and its tokenizer in .*export to another disk"
    ):
        export._write(tmp_path / "out", adapter, {}, config.model.model_dump(), home)
    assert [file.name for file in tmp_path.iterdir() if "out" in file.name] == []
