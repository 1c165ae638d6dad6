"""Conversations as tokens: what the model's chat template writes, and which part of it the loss is on.

The whole conversation is rendered once, and tokenised once. An assistant's turn begins where the rendering of what came
before it ends, generation prompt included: that is what the model sees when it is to write that turn. It ends behind
its end-of-turn token. `{% generation %}` is not used: most templates lack it, and their masks would be empty.

What would train on something else than what is scored is refused: a prefix that the whole does not begin with, as
text or as tokens, a turn without an end, a first token that is there twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from sweeper.config.teaching import PromptSection
from sweeper.data.example import Example
from sweeper.errors import PromptError
from sweeper.quoting import quoted, without_texts

Message = dict[str, str]  # role, content

# For a base without a chat template: Alpaca's headings, and the end token behind each response.
INSTRUCTION = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}"
    "{% elif m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + m.content + eos_token + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
# Qwen 3 would think before each answer; Llama 3 would write today's date into each prompt.
_ARGUMENTS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
_DATE = (
    "{%- macro strftime_now(format) -%}{{ '2024-07-26' if format == '%Y-%m-%d' else '26 Jul 2024' }}{%- endmacro -%}"
)
# What `apply_chat_template` gives each template.
_RESERVED = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"}


def frozen(template: str, arguments: Mapping[str, Any]) -> str:
    """The template with the values of its arguments, and a fixed date for today's, written before it.

    It renders the same without any argument, today and later, so it can be exported as it is.
    """
    head = _DATE if _reads(template, "strftime_now") else ""
    for name, value in arguments.items():
        if _reads(template, name):
            head += f"{{%- if {name} is not defined %}}{{%- set {name} = {value!r} %}}{{%- endif -%}}"
    return head + "{{ '' }}" + template if head else template  # `-%}` would eat white space of the template


def _reads(template: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


class Chat:
    """One tokenizer with the template that `prompt` gives it, or its own, or the instruction format.

    Attributes:
        template: renders without arguments and does not depend on the date.
        end: the token that ends an assistant's turn.
        lead: the white space that the template writes before an answer, behind the generation prompt.
        specials: texts that the tokenizer reads as special tokens.

    Raises:
        PromptError: if the template does not put an answer unchanged behind the prompt, or does not end it.
    """

    def __init__(self, tokenizer: Any, section: PromptSection) -> None:
        self.tokenizer = tokenizer
        self.system = section.system
        own = section.chat_template or (tokenizer.get_chat_template() if tokenizer.chat_template else None)
        self.has_template = own is not None
        self._check_arguments(own, section.chat_template_kwargs)
        self.template = frozen(own or INSTRUCTION, {**_ARGUMENTS, **section.chat_template_kwargs})
        # Not `all_special_tokens`, which knows the roles (eos, pad, …) but not every marker of a turn.
        specials = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        if tokenizer.eos_token is not None:
            specials.append(tokenizer.eos_token)
        elif not self.has_template:
            raise PromptError(
                "the tokenizer must have an end token (eos_token), or no answer could end, but has none",
                code="no-end-of-turn",
            )
        self.specials = list(dict.fromkeys(specials))
        probe = [{"role": "user", "content": "Is this a probe?"}, {"role": "assistant", "content": "It is."}]
        messages = self.opened(probe)
        prompt, whole = self.render(messages[:-1], True), self.render(messages, False)
        self.lead, end = self._turn(prompt, whole, "It is.", texts=())
        self.end = int(tokenizer.convert_tokens_to_ids(end))
        self._check_contents(messages, whole)

    def _check_arguments(self, template: str | None, arguments: Mapping[str, Any]) -> None:
        known = _RESERVED | set(self.tokenizer.special_tokens_map)
        for name in arguments:
            key = f"prompt.chat_template_kwargs.{name}"
            if not name.isidentifier() or name in known:
                raise PromptError(
                    f"{key} must be a name of the template's own, but is one of {', '.join(sorted(known))}"
                    if name in known
                    else f"{key} must be a name in Jinja, but is {name!r}"
                )
            if template is None or not _reads(template, name):
                state = "the template does not" if template is not None else "the model has no chat template"
                raise PromptError(f"{key} must be read by the chat template, but {state}; leave it out")

    @property
    def exported(self) -> str:
        """The template with what the tokenizer puts before a text by itself, which `apply_chat_template` does not."""
        if self.has_template:
            return self.template
        bare, whole = (self.tokenizer("x", add_special_tokens=adds)["input_ids"] for adds in (False, True))
        added = len(whole) - len(bare)
        head = self.tokenizer.decode(whole[:added]) if added and whole[added:] == bare else ""
        probe = self.render([{"role": "user", "content": "Is this a probe?"}], True)
        for lead in (head, f"{head} "):  # some tokenizers put a space before a text, but not behind a first token
            if tuple(self.tokenizer(lead + probe, add_special_tokens=False)["input_ids"]) == self.tokens(probe):
                break
        else:
            lead = head  # what its prompts become is compared before anything is exported
        return "{{ " + repr(lead) + " }}" + self.template if lead else self.template

    def opened(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with `prompt.system` at its begin."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *messages]

    def render(self, messages: Sequence[Message], is_open: bool) -> str:
        """A conversation as text; one that is open ends with the generation prompt.

        Raises:
            PromptError: if the template refuses it.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.template, tokenize=False, add_generation_prompt=is_open
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            reason = without_texts(error, [message["content"] for message in messages])
            raise PromptError(f"the model's chat template refuses the conversation: {reason}") from None
        return str(text)

    def tokens(self, text: str) -> tuple[int, ...]:
        """A rendering as tokens.

        Raises:
            PromptError: if the first token is there twice.
        """
        # A chat template writes its own first token; the instruction format leaves it to the tokenizer.
        tokens = tuple(self.tokenizer(text, add_special_tokens=not self.has_template, verbose=False)["input_ids"])
        self._check_begin(tokens)
        return tokens

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The tokens up to where the assistant answers."""
        opened = self.opened(messages)
        text = self.render(opened, True)
        self._check_contents(opened, text)
        return self.tokens(text)

    def example(self, messages: Sequence[Message], loss: str) -> Example:
        """A conversation as tokens with the loss on the assistant's turns, each with its end-of-turn token.

        Args:
            loss: all: on each of its turns; last: on the last alone.

        Raises:
            PromptError: if a turn is not found where a prompt would end.
        """
        opened = self.opened(messages)
        turns = [place for place, message in enumerate(opened) if message["role"] == "assistant"]
        if not turns or turns[0] == 0:
            raise PromptError(
                "a conversation must have an assistant's turn behind another's, or nothing is learned from it, but its "
                f"roles are {', '.join(message['role'] for message in opened) or 'none'}"
            )
        whole = self.render(opened, False)
        self._check_contents(opened, whole)
        supervised = turns if loss == "all" else turns[-1:]
        borders = [self._borders(opened, turn, whole) for turn in supervised]
        tokens = self.tokens(whole)
        spans = [tuple(self._place(tokens, text) for text in pair) for pair in borders]
        missing = next((turn for turn, span in zip(supervised, spans, strict=True) if None in span), None)
        if missing is None:
            return Example.masked(tokens, [(begin or 0, end or 0) for begin, end in spans])
        if len(supervised) == 1:
            return self._apart(*borders[0])
        raise PromptError(
            f"the tokens of the whole conversation must begin with those up to turn {missing + 1}, but a token goes "
            "over that border: the generation prompt ends, or the answer begins, with white space that the tokenizer "
            "joins to what follows. Set data.loss=last, or a prompt.chat_template without that white space"
        )

    def _borders(self, messages: list[Message], turn: int, whole: str) -> tuple[str, str]:
        """The whole up to where an assistant's turn begins, and up to behind its end-of-turn token."""
        prompt, closed = self.render(messages[:turn], True), self.render(messages[: turn + 1], False)
        content = messages[turn]["content"]
        texts = [message["content"] for message in messages]
        lead, end = self._turn(prompt, closed, content, texts)
        closed = closed[: closed.index(end, len(prompt) + len(lead) + len(content.strip())) + len(end)]
        for name, prefix in (("generation prompt", prompt), ("end", closed)):
            if not whole.startswith(prefix):
                raise PromptError(
                    f"the whole conversation must begin with what is rendered up to the {name} of turn {turn + 1}, but "
                    f"the chat template changes {_first_difference(prefix, whole, texts)}. Set data.loss=last, or a "
                    "prompt.chat_template that writes earlier turns as they were"
                )
        return prompt, closed

    def _place(self, tokens: tuple[int, ...], prefix: str) -> int | None:
        """Behind which token a prefix of the text ends; None where a token goes over its end."""
        read = self.tokens(prefix)
        return len(read) if tokens[: len(read)] == read else None

    def _apart(self, prompt: str, closed: str) -> Example:
        """A prompt and an answer tokenised apart, which is what the model sees when it writes the answer."""
        tokens = self.tokens(prompt)
        answer = tuple(self.tokenizer(closed[len(prompt) :], add_special_tokens=False)["input_ids"])
        if self.tokenizer.decode(tokens + answer) != self.tokenizer.decode(self.tokens(closed)):
            raise PromptError(
                "an answer must be the same text when it is tokenised by itself, but this tokenizer adds or drops "
                "white space at its begin. Set a prompt.chat_template whose generation prompt does not end with white "
                "space"
            )
        return Example(tokens, answer)

    def _behind(self, prompt: str, closed: str, content: str, texts: Sequence[str]) -> str:
        """What the template writes behind the prompt: white space, and the answer."""
        behind = closed.removeprefix(prompt)
        if not closed.startswith(prompt) or not content.strip() or not behind.lstrip().startswith(content.strip()):
            raise PromptError(
                "the chat template must put the answer unchanged behind the prompt, but a conversation with an "
                f"answer is rendered otherwise: {_first_difference(prompt + content.strip(), closed, texts)}"
            )
        return behind

    def _turn(self, prompt: str, closed: str, content: str, texts: Sequence[str]) -> tuple[str, str]:
        """What the template writes around an answer: the white space before it, and the token that ends the turn.

        Args:
            texts: of the row, which an error does not quote.
        """
        behind, content = self._behind(prompt, closed, content, texts), content.strip()
        lead = behind[: behind.index(content)]
        rest = behind[len(lead) + len(content) :].lstrip()
        found = [special for special in self.specials if rest.startswith(special)]
        if not found:
            raise PromptError(
                "the chat template must end an assistant's turn with a special token, or no answer would end, but "
                f"behind the answer it writes {quoted(rest[:40], texts)}. Set a prompt.chat_template that writes "
                "{{ eos_token }} there",
                code="no-end-of-turn",
            )
        return lead, max(found, key=len)

    def check_text(self, text: str) -> None:
        """Refuses a text with a special token in it: it would be read as the end of a turn, or the begin of one.

        Raises:
            PromptError: naming the token.
        """
        if found := [special for special in self.specials if special in text]:
            raise PromptError(
                f"a text must not have special tokens of the model in it, but has {found[0]!r}", code="special-token"
            )

    def _check_contents(self, messages: Sequence[Message], text: str) -> None:
        for number, message in enumerate(messages, start=1):
            if message["content"].strip() not in text:
                raise PromptError(
                    f"the chat template must write every message unchanged, but the {message['role']}'s (the "
                    f"{number}. message) is not in what it renders"
                )

    def _check_begin(self, tokens: tuple[int, ...]) -> None:
        """A first token belongs at the begin, and where the next turn begins behind the end of one (SmolLM 2)."""
        first, last = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if first is None:
            return
        is_end = first == last  # then it also ends turns, and may be followed by another's first
        for place in [1] if is_end else range(1, len(tokens)):
            if len(tokens) <= place or tokens[place] != first:
                continue
            before = place - 1
            while before and not self.tokenizer.decode([tokens[before]]).strip():
                before -= 1
            if tokens[before] not in {self.end, last} - {first}:
                raise PromptError(
                    f"the tokenizer's first token {self.tokenizer.bos_token!r} must be at the begin once, but is there "
                    f"again as token {place + 1}; take it out of prompt.template or prompt.chat_template",
                    code="special-token",
                )


def _first_difference(expected: str, text: str, texts: Sequence[str]) -> str:
    """Where two renderings part, in words, without the texts of the row."""
    place = next(
        (n for n, (a, b) in enumerate(zip(expected, text, strict=False)) if a != b), min(map(len, (expected, text)))
    )
    before, after = (quoted(rendering[place : place + 20], texts) for rendering in (expected, text))
    return f"{before} to {after} at character {place + 1}"
