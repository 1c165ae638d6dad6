"""Masks of known families: each template in short, as its makers' tokenizers have it, against expectations by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sweeper.config.schema import Config
from sweeper.config.teaching import PromptSection
from sweeper.data.chat import Chat, Message
from sweeper.data.example import Example
from sweeper.data.prompt import Renderer
from sweeper.data.row import Row
from sweeper.errors import ConfigError, PromptError

MARKERS = [
    *("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<|user|>"),
    *("<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"),
]
# How text is cut before it is merged: white space before a line's end stays together, or with the next word.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ONE: list[Message] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"}]
TWO: list[Message] = [*ONE, {"role": "user", "content": "and now?"}, {"role": "assistant", "content": "good bye"}]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
)
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
VICUNA_SYSTEM = "A chat between a curious user and an artificial intelligence assistant."


@dataclass(frozen=True)
class Family:
    """A template with what it must give for `TWO`: the text before the first answer, and the supervised texts."""

    template: str | None
    first: str | None
    last: str
    prompt: str
    supervised: tuple[str, str]
    pad: str | None = "<pad>"
    keeps_history: bool = True


FAMILIES = {
    "ChatML": Family(
        CHATML,
        None,
        "<|im_end|>",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ("hello there<|im_end|>", "good bye<|im_end|>"),
    ),
    "SmolLM 2": Family(  # its first token begins each turn
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
        "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ("hello there<|im_end|>", "good bye<|im_end|>"),
        pad="<|im_end|>",
    ),
    "Llama 2": Family(
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for m in loop_messages %}"
        + ALTERNATE
        + "{% if loop.index0 == 0 "
        "and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + m.content %}"
        "{% else %}{% set content = m.content %}{% endif %}{% if m.role == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif m.role == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        "<s>[INST] hi [/INST]",
        (" hello there </s>", " good bye </s>"),
        pad="</s>",
    ),
    "Llama 3": Family(
        "{% for m in messages %}{% set content = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' "
        "+ m.content | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("hello there<|eot_id|>", "good bye<|eot_id|>"),
    ),
    "Mistral": Family(
        "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}{{ m.content + eos_token + ' ' }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        "<s>[INST] hi [/INST]",
        ("hello there</s>", "good bye</s>"),
        pad="</s>",
    ),
    "Gemma": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}" + ALTERNATE + "{% if m.role == 'assistant' %}{% set role = 'model' %}"
        "{% else %}{% set role = m.role %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos>",
        "<eos>",
        "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
        ("hello there<end_of_turn>", "good bye<end_of_turn>"),
    ),
    "Phi 3": Family(  # an open conversation ends otherwise than a closed one, which has the end token behind it
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<s>",
        "<|endoftext|>",
        "<|user|>\nhi<|end|>\n<|assistant|>\n",
        ("hello there<|end|>", "good bye<|end|>"),
        pad="<|endoftext|>",
    ),
    "Qwen 2.5": Family(
        "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>system\n" + QWEN_SYSTEM + "<|im_end|>\n' }}{% endif %}{% for m in messages %}"
        "{% if m.role != 'system' or not loop.first %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        None,
        "<|im_end|>",
        f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ("hello there<|im_end|>", "good bye<|im_end|>"),
        pad="<|endoftext|>",
    ),
    "Qwen 3, thinking off": Family(  # the thoughts of earlier turns, here empty ones, are dropped
        "{% set ns = namespace(last_query=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last_query = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
        "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.index0 > ns.last_query %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}",
        None,
        "<|im_end|>",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ("hello there<|im_end|>", "good bye<|im_end|>"),
        pad="<|endoftext|>",
        keeps_history=False,
    ),
    "Zephyr": Family(
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        "<s>",
        "</s>",
        "<|user|>\nhi</s>\n<|assistant|>\n",
        ("hello there</s>", "good bye</s>"),
        pad="</s>",
    ),
    "Alpaca": Family(
        "{{ bos_token }}{{ '" + ALPACA_SYSTEM + "\n\n' }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '### Instruction:\n' + m.content + '\n\n' }}{% elif m.role == 'assistant' %}"
        "{{ '### Response:\n' + m.content + eos_token + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
        "<s>",
        "</s>",
        f"<s>{ALPACA_SYSTEM}\n\n### Instruction:\nhi\n\n### Response:\n",
        ("hello there</s>", "good bye</s>"),
    ),
    "Vicuna": Family(
        "{{ bos_token }}{{ '" + VICUNA_SYSTEM + " ' }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ 'USER: ' + m.content + ' ' }}{% elif m.role == 'assistant' %}"
        "{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        "<s>",
        "</s>",
        f"<s>{VICUNA_SYSTEM} USER: hi ASSISTANT:",
        (" hello there</s>", " good bye</s>"),
    ),
    "no template": Family(  # the tokenizer writes the first token
        None,
        "<s>",
        "</s>",
        "<s>### Instruction:\nhi\n\n### Response:\n",
        ("hello there</s>", "good bye</s>"),
    ),
}


def tokenizer(
    template: str | None,
    first: str | None = "<s>",
    last: str | None = "</s>",
    pad: str | None = "<pad>",
    pattern: str = LLAMA_3,
) -> Any:
    """A byte-level BPE that has learned some words, and writes its first token as many tokenizers do."""
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(MARKERS)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=MARKERS, show_progress=False
    )
    made.train_from_iterator(["hello there good bye and now? hi user assistant\n\n hello there"] * 20, trainer)
    if first is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, made.token_to_id(first))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=first, eos_token=last, pad_token=pad)
    fast.chat_template = template
    return fast


def section(**changes: Any) -> PromptSection:
    values = {"system": None, "template": "{{ text }}", "max_tokens": 512}
    return PromptSection.model_validate({**values, "chat_template": None, "chat_template_kwargs": {}, **changes})


def chat_of(family: Family) -> Chat:
    return Chat(tokenizer(family.template, family.first, family.last, family.pad), section())


def supervised_texts(chat: Chat, example: Example) -> list[str]:
    spans = example.spans or ((0, len(example.answer)),)
    return [chat.tokenizer.decode(example.answer[begin:end]) for begin, end in spans]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mask_of_one_turn(name: str) -> None:
    family = FAMILIES[name]
    chat = chat_of(family)
    for loss in ("all", "last"):
        example = chat.example(ONE, loss)
        assert chat.tokenizer.decode(example.prompt) == family.prompt
        assert supervised_texts(chat, example) == [family.supervised[0]]
        assert example.prompt == chat.prompt(ONE[:1])  # what is trained is what is scored


@pytest.mark.parametrize("name", FAMILIES)
def test_the_masks_of_two_turns(name: str) -> None:
    family = FAMILIES[name]
    chat = chat_of(family)
    last = chat.example(TWO, "last")
    assert supervised_texts(chat, last) == [family.supervised[1]]
    assert last.prompt == chat.prompt(TWO[:3])
    if not family.keeps_history:
        with pytest.raises(PromptError, match=r"must begin with .* the generation prompt of turn 2.*data.loss=last"):
            chat.example(TWO, "all")
        return
    example = chat.example(TWO, "all")
    assert supervised_texts(chat, example) == list(family.supervised)
    assert example.tokens == last.tokens
    assert example.prompt == chat.prompt(TWO[:1])
    assert example.supervised_tokens == len(example.supervised) == sum(end - begin for begin, end in example.spans)


def test_templates_are_what_a_stranger_renders() -> None:
    """Without our arguments, which are written into the template that is exported."""
    for family in FAMILIES.values():
        chat = chat_of(family)
        if family.template is not None:
            stranger = tokenizer(chat.template, family.first, family.last, family.pad)
            text = stranger.apply_chat_template(ONE[:1], tokenize=False, add_generation_prompt=True)
            assert text == family.prompt


@pytest.mark.parametrize(
    ("template", "date"),
    [
        (
            "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
            "{{ date_string }}",
            "26 Jul 2024",
        ),
        ("{{ strftime_now('%Y-%m-%d') }}", "2024-07-26"),
        (
            "{% for m in messages %}{% if loop.first %}{{ strftime_now('%d %B %Y') }}{% endif %}{% endfor %}",
            "26 Jul 2024",
        ),
    ],
)
def test_no_prompt_has_todays_date(template: str, date: str) -> None:
    chat = Chat(tokenizer(template + CHATML, None, "<|im_end|>"), section())
    assert chat.render(ONE[:1], True).startswith(f"{date}<|im_start|>user")


def test_white_space_at_a_templates_begin_stays() -> None:
    chat = Chat(tokenizer("\n  {% if enable_thinking %}{% endif %}" + CHATML, None, "<|im_end|>"), section())
    plain = tokenizer("\n  {% if enable_thinking %}{% endif %}" + CHATML, None, "<|im_end|>")
    text = plain.apply_chat_template(ONE[:1], tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert chat.render(ONE[:1], True) == text


def test_arguments_of_the_template() -> None:
    template = "{{ tone }}" + CHATML

    def render(**kwargs: Any) -> str:
        made = tokenizer(template, None, "<|im_end|>")
        return Chat(made, section(chat_template_kwargs=kwargs)).render(ONE[:1], True)

    assert render(tone="kind").startswith("kind<|im_start|>")
    assert render(tone=[1, None, True]).startswith("[1, None, True]<|im_start|>")
    with pytest.raises(PromptError, match=r"chat_template_kwargs.volume must be read by the chat template, but the"):
        render(volume=1)
    with pytest.raises(
        PromptError, match=r"chat_template_kwargs.tools must be a name of the template's own, but is one"
    ):
        render(tools=[])
    with pytest.raises(PromptError, match=r"must be read by the chat template, but the model has no chat template"):
        Chat(tokenizer(None), section(chat_template_kwargs={"tone": "kind"}))


def test_thinking_may_be_on_where_the_template_can_be_trained_with_it() -> None:
    qwen = FAMILIES["Qwen 3, thinking off"]
    with pytest.raises(PromptError, match=r"must put the answer unchanged behind the prompt.*'<think>"):
        Chat(tokenizer(qwen.template, None, qwen.last), section(chat_template_kwargs={"enable_thinking": True}))


def test_a_chat_template_of_ones_own_replaces_the_models(tmp_path: Path) -> None:
    made = tokenizer(CHATML, None, "<|im_end|>")
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    (tmp_path / "chat.jinja").write_text(template)
    for given in (template, str(tmp_path / "chat.jinja")):
        chat = Chat(made, section(chat_template=given))
        assert made.decode(chat.prompt(ONE[:1])) == "user: hi<|im_end|>assistant:"
        assert supervised_texts(chat, chat.example(ONE, "all")) == [" hello there<|im_end|>"]


def test_a_file_that_is_not_there_is_refused(composed: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"prompt.chat_template: .*must be Jinja text or a UTF-8 file .* 'nowhere"):
        composed("study=demo", "prompt.chat_template=nowhere.jinja")
    kept = composed("study=demo", "prompt.chat_template='{{ messages }}'", "+prompt.chat_template_kwargs.tone=kind")
    assert (kept.prompt.chat_template, kept.prompt.chat_template_kwargs) == ("{{ messages }}", {"tone": "kind"})


# What a template may do wrong, and the rule that finds it.
WRONG = [
    (
        "first token twice",
        "{{ bos_token + bos_token }}" + CHATML,
        r"first token '<s>' must be at the begin once.* token 2",
    ),
    (
        "first token in each message",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + bos_token + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant' + bos_token }}{% endif %}",
        r"first token '<s>' must be at the begin once",
    ),
    (
        "no end of turn",
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
        r"must end an assistant's turn with a special token.* it writes ''",
    ),
    (
        "an end that is text",
        "{% for m in messages %}{{ m.role + ': ' + m.content + ' ### End\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
        r"must end an assistant's turn with a special token.* it writes '### End\\n'",
    ),
    (
        "another turn than the generation prompt",
        CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>model\n'"),
        r"must put the answer unchanged behind the prompt",
    ),
    (
        "a system message that is lost",
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        r"must write every message unchanged, but the system's",
    ),
    (
        "a generation prompt that ends in a space",
        "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        r"a token goes over that border",
    ),
    (
        "history that is shortened",
        "{% for m in messages %}{% set old = m.role == 'assistant' and not loop.last %}"
        "{{ '<|im_start|>' + (m.content[:3] if old else m.content) + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}",
        r"must write every message unchanged, but the assistant's \(the 3. message\)",
    ),
]


@pytest.mark.parametrize(("template", "expected"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_template_that_trains_on_something_else_is_refused(template: str, expected: str) -> None:
    with pytest.raises(PromptError) as caught:
        Chat(tokenizer(template), section(system="Be brief.")).example(TWO, "all")
    assert re.search(expected, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize(("pattern", "gap"), [(GPT_2, "\n\n"), (LLAMA_3, " ")])
def test_white_space_that_would_join_the_answer_is_read_as_a_prompt_has_it(pattern: str, gap: str) -> None:
    """Tokenised as a whole, the prompt's last token would be another than when the model is to answer."""
    template = "{% for m in messages %}{{ m.role + ':' + gap + m.content + eos_token }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant:' + gap }}{% endif %}"
    )
    chat = Chat(tokenizer(template.replace("gap", repr(gap)), pattern=pattern), section())
    for messages in (ONE, TWO):
        example = chat.example(messages, "last")
        assert example.prompt == chat.prompt(messages[:-1])
        assert supervised_texts(chat, example) == [messages[-1]["content"] + "</s>"]
    with pytest.raises(PromptError, match=r"those up to turn 2, but a token goes over that border"):
        chat.example(TWO, "all")


def test_a_first_token_in_the_prompts_own_template_is_found() -> None:
    wrong = section(template="<s>[INST] {{ text }} [/INST]")
    with pytest.raises(PromptError, match=r"x:1: the tokenizer's first token '<s>' must be at the begin once"):
        Renderer(tokenizer(FAMILIES["Llama 2"].template), wrong, ["a", "b"]).examples([Row("hi", "a", "x:1")])


@pytest.mark.parametrize("roles", [[], ["user"], ["assistant"], ["user", "user"]])
def test_an_empty_mask_is_refused(roles: list[str]) -> None:
    chat = chat_of(FAMILIES["ChatML"])
    with pytest.raises(PromptError, match=r"must have an assistant's turn behind another's.* its roles are"):
        chat.example([{"role": role, "content": "x"} for role in roles], "all")
    with pytest.raises(PromptError, match=r"must put the answer unchanged"):
        chat.example([{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}], "all")


def test_a_base_where_one_token_is_first_and_last_and_pads() -> None:
    made = tokenizer(None, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>")
    chat = Chat(made, section())
    example = chat.example(TWO, "all")
    assert supervised_texts(chat, example) == ["hello there<|endoftext|>", "good bye<|endoftext|>"]
    assert example.prompt[0] == example.answer[-1] == made.pad_token_id


def test_a_base_without_an_end_token_is_refused() -> None:
    with pytest.raises(PromptError, match="must have an end token"):
        Chat(tokenizer(None, last=None), section())
