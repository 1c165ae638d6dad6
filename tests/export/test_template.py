"""What an export has beside its adapter: the chat template of the study, and how it is answered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, GenerationConfig

from sweeper.config.schema import Config
from sweeper.exporting.tokenizer import write_tokenizer
from sweeper.models.source import source_of
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
    chat = write_tokenizer(tmp_path / "out", config.model, config.prompt, home)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    own = "kind<|user|>26 Jul 2024: hi<|end|><|assistant|>26 Jul 2024: "
    assert text == (own if is_own else "<|user|>\nhi<|end|>\n<|assistant|>\n")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == chat.end


@pytest.mark.parametrize("has_first", [True, False])
def test_a_base_without_a_template_gets_one_with_its_first_token(
    composed: Callable[..., Config], home: Home, tmp_path: Path, has_first: bool
) -> None:
    config = composed("study=demo")
    source = Path(source_of(config.model, home))
    folder = shutil.copytree(source, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if has_first:
        end = tokenizer.eos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)]
        )
        tokenizer.bos_token = end
    tokenizer.save_pretrained(folder)
    section = config.model.model_copy(update={"path": str(folder)})
    chat = write_tokenizer(tmp_path / "out", section, config.prompt, home)
    messages = [{"role": "user", "content": "hi"}]
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = exported.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = tuple(exported(text, add_special_tokens=False)["input_ids"])
    assert tokens == chat.prompt(messages)
    assert (tokens[0] == exported.eos_token_id) is has_first
