"""From a row to tokens: the prompt, the answer, and where the one ends and the other begins.

A label is tokenised apart from its prompt and joined to it, which is what scoring over the labels sees, so the loss
mask needs no search for a boundary. What the model's chat template writes around them is found once (`data.chat`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.config.schema import PromptSection
from sweeper.data.chat import Chat, Message
from sweeper.data.example import Example
from sweeper.data.rows import Row
from sweeper.data.template import RowTemplate
from sweeper.errors import PromptError


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
        self._template = RowTemplate(section.template, self.labels)
        self.chat = Chat(tokenizer, section)
        self._answers = {label: self._answer(label) for label in self.labels}
        self._check_distinct()

    def prompt_tokens(self, text: str, columns: Mapping[str, Any] | None = None) -> tuple[int, ...]:
        """The tokens up to where the answer begins.

        Args:
            columns: of the row, for a template that reads more than its text.

        Raises:
            PromptError: if the row has one of the tokenizer's special tokens in it, or the template fails.
        """
        return self._prompt_of(self._body(text, columns or {}))

    def prompt(self, text: str, columns: Mapping[str, Any] | None = None) -> str:
        """The rendered prompt, as the model will see it."""
        return self.chat.render(self.chat.opened(_asked(self._body(text, columns or {}))), True)

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
        self._check_lengths(rows, [len(item) for item in examples])
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
        bodies, prompts = [], []
        for row in rows:
            try:
                bodies.append(self._body(row.text, row.columns))
                prompts.append(self._prompt_of(bodies[-1]))
            except PromptError as error:
                raise PromptError(f"{row.place}: {error}") from None
        self._template.check_bodies([row.text for row in rows], bodies)
        return prompts

    def _prompt_of(self, body: str) -> tuple[int, ...]:
        return self.chat.prompt(_asked(body))

    def _body(self, text: str, columns: Mapping[str, Any]) -> str:
        """What the user says; the special tokens in it are the template's own."""
        self.chat.check_text(text)
        body = self._template.render(text, columns)
        for special in self.chat.specials:
            if body.count(special) > self._template.source.count(special):
                raise PromptError(f"a column must not have special tokens of the model in it, but one has {special!r}")
        return body

    def _answer(self, label: str) -> tuple[int, ...]:
        tokens = self.tokenizer(self.chat.lead + label, add_special_tokens=False)["input_ids"]
        return (*tokens, self.chat.end)

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


def _asked(body: str) -> list[Message]:
    return [{"role": "user", "content": body}]
