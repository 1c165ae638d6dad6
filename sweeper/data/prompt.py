"""From a row to tokens: the prompt, the answer, and where the one ends and the other begins.

The model's chat template is applied once, by rendering the conversation up to the assistant's turn
(the prompt) and with it (to find what stands between prompt and answer, and what ends a turn). A base
without a template gets an instruction format. Prompt and answer are tokenised apart and joined, which is
what generation sees, so the loss mask needs no search for a boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sweeper.config.schema import PromptSection
from sweeper.data.rows import Row
from sweeper.errors import PromptError

# Qwen 3 would think before each answer; Llama 3 would write today's date into each prompt.
_TEMPLATE_ARGUMENTS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
_INSTRUCTION = "{system}### Instruction:\n{prompt}\n\n### Response:\n"


@dataclass(frozen=True)
class Example:
    """One training row as tokens; the loss is on `answer` alone."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Renderer:
    """Renders rows for one tokenizer, one prompt and one set of labels.

    Raises:
        PromptError: if the template is not valid Jinja, or the chat template does not put the answer
            behind the prompt unchanged.
    """

    def __init__(self, tokenizer: Any, section: PromptSection, labels: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.section = section
        self.labels = list(labels)
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        try:
            self._template = environment.from_string(section.template)
        except TemplateError as error:
            raise PromptError(f"prompt.template must be a Jinja template, but {error}: {section.template!r}") from None
        self._check_template()
        # Special tokens that are text in a row would be read as the end of a turn, or the begin of one.
        self._specials = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._lead, self._end = self._around_answer()
        self._answers = {label: self._answer(label) for label in self.labels}
        self._check_distinct()

    def prompt_tokens(self, text: str) -> tuple[int, ...]:
        """The tokens up to where the answer begins.

        Raises:
            PromptError: if the text has one of the tokenizer's special tokens in it.
        """
        if found := [special for special in self._specials if special in text]:
            raise PromptError(f"a text must not have special tokens of the model in it, but has {found[0]!r}")
        # A chat template writes its own first token; the instruction format leaves it to the tokenizer.
        is_chat = bool(self.tokenizer.chat_template)
        return tuple(self.tokenizer(self.prompt(text), add_special_tokens=not is_chat)["input_ids"])

    def answer_tokens(self, label: str) -> tuple[int, ...]:
        """The tokens of a label, with the token that ends the turn."""
        return self._answers[label]

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """Tokenises training rows.

        Raises:
            PromptError: if any row is longer than `prompt.max_tokens`.
        """
        prompts = self._prompts(rows)
        examples = [Example(prompt, self.answer_tokens(row.label)) for prompt, row in zip(prompts, rows, strict=True)]
        self._check_lengths(rows, [len(item.prompt) + len(item.answer) for item in examples])
        return examples

    def prompts(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        """Tokenises the prompts of rows to be scored; the longest answer has to fit behind each.

        Raises:
            PromptError: if any row is longer than `prompt.max_tokens`.
        """
        prompts = self._prompts(rows)
        longest = max(map(len, self._answers.values()))
        self._check_lengths(rows, [len(prompt) + longest for prompt in prompts])
        return prompts

    def _prompts(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        prompts = []
        for row in rows:
            try:
                prompts.append(self.prompt_tokens(row.text))
            except PromptError as error:
                raise PromptError(f"{row.place}: {error}") from None
        return prompts

    def prompt(self, text: str) -> str:
        """The rendered prompt, as the model will see it."""
        body = self._body(text)
        if self.tokenizer.chat_template:
            return self._chat(self._messages(body), add_generation_prompt=True)
        system = f"{self.section.system}\n\n" if self.section.system else ""
        return _INSTRUCTION.format(system=system, prompt=body)

    def _body(self, text: str) -> str:
        try:
            return self._template.render(text=text, labels=self.labels)
        except Exception as error:  # the template is the user's code, and may raise anything
            raise PromptError(
                f"prompt.template could not be rendered: {type(error).__name__}: {error}; it knows `text` and `labels`"
            ) from None

    def _check_template(self) -> None:
        if self._body("one text") == self._body("another"):
            raise PromptError(
                f"prompt.template must use the row's text, {{{{ text }}}}, but is {self.section.template!r}"
            )

    def _messages(self, body: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.section.system}] if self.section.system else []
        return [*system, {"role": "user", "content": body}]

    def _chat(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **_TEMPLATE_ARGUMENTS
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise PromptError(f"the model's chat template refuses the conversation: {error}") from error
        return str(text)

    def _around_answer(self) -> tuple[str, int]:
        """The space that the chat template writes before an answer, and the token that ends it."""
        if self.tokenizer.chat_template:
            probe = self.labels[0]
            prompt = self.prompt("Is this a probe?")
            turns = [*self._messages(self._body("Is this a probe?")), {"role": "assistant", "content": probe}]
            whole = self._chat(turns, add_generation_prompt=False)
            behind = whole.removeprefix(prompt)
            if not whole.startswith(prompt) or not behind.lstrip().startswith(probe):
                raise PromptError(
                    "the chat template must put the answer unchanged behind the prompt, but a conversation with an "
                    f"answer is rendered as {whole!r}, which does not begin with {prompt + probe!r}"
                )
            lead = behind[: behind.index(probe)]
            rest = behind[len(lead) + len(probe) :].lstrip()
            tokens = self.tokenizer(rest, add_special_tokens=False)["input_ids"]
            # Not `all_special_ids`, which knows the roles (eos, pad, …) but not every marker of a turn.
            added = self.tokenizer.added_tokens_decoder
            if tokens and tokens[0] in added and added[tokens[0]].special:
                return lead, int(tokens[0])
        else:
            lead = ""
        if self.tokenizer.eos_token_id is None:
            raise PromptError("the tokenizer has no end token (eos_token), so no answer could end")
        return lead, int(self.tokenizer.eos_token_id)

    def _answer(self, label: str) -> tuple[int, ...]:
        return (*self.tokenizer(self._lead + label, add_special_tokens=False)["input_ids"], self._end)

    def _check_distinct(self) -> None:
        owners: dict[tuple[int, ...], str] = {}
        for label, tokens in self._answers.items():
            if tokens in owners:
                raise PromptError(
                    f"each label must have its own tokens, but {label!r} and {owners[tokens]!r} have the same"
                )
            owners[tokens] = label

    def _check_lengths(self, rows: Sequence[Row], lengths: list[int]) -> None:
        limit = self.section.max_tokens
        long = [(length, row.place) for row, length in zip(rows, lengths, strict=True) if length > limit]
        if long:
            length, place = max(long)
            raise PromptError(
                f"each row must fit into prompt.max_tokens={limit}, but {len(long)} of {len(rows)} do not; the longest "
                f"has {length} tokens ({place}). Raise prompt.max_tokens or shorten these rows"
            )
