"""From a row to tokens: the prompt, the answer, and where the one ends and the other begins.

Labels (`Renderer`): a label is tokenised apart from its prompt and joined to it, which is what scoring over the labels
sees, so the loss mask needs no search for a boundary. What the model's chat template writes around them is found once
(`data.chat`).

Written answers (`Conversations`): the conversation is rendered with its answer, and masked by its prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sweeper.config.schema import Config
from sweeper.config.teaching import PromptSection, WrittenSection
from sweeper.data.chat import Chat, Message
from sweeper.data.example import Example
from sweeper.data.row import Row
from sweeper.data.template import RowTemplate
from sweeper.errors import PromptError
from sweeper.quoting import name_of

Rendered = TypeVar("Rendered")


def renderer(config: Config, tokenizer: Any, labels: Sequence[str]) -> Renderer | Conversations:
    """What renders the rows of a study; raises as they do."""
    if isinstance(config.task, WrittenSection):
        return Conversations(tokenizer, config.prompt, config.data.loss, config.task.max_new_tokens)
    return Renderer(tokenizer, config.prompt, labels)


class _RowRenderer:
    """What both ways of rendering share: the template over the columns, and the limit on a row's length."""

    def __init__(self, tokenizer: Any, section: PromptSection, labels: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.section = section
        self.labels = list(labels)
        self._template = RowTemplate(section.template, self.labels)
        self.chat = Chat(tokenizer, section)

    def _each(self, rows: Sequence[Row], render: Callable[[Row], Rendered]) -> list[Rendered]:
        """Renders rows; an error names the place of its row."""
        rendered = []
        for row in rows:
            try:
                rendered.append(render(row))
            except PromptError as error:
                raise PromptError(f"{row.place}: {error}", error.code) from None
        return rendered

    def _body(self, text: str, columns: Mapping[str, Any]) -> str:
        """What the user says; the special tokens in it are the template's own."""
        self.chat.check_text(text)
        body = self._template.render(text, columns)
        for special in self.chat.specials:
            if body.count(special) > self._template.source.count(special):
                raise PromptError(
                    f"a column must not have special tokens of the model in it, but one has {special!r}",
                    code="special-token",
                )
        return body

    def _check_lengths(self, rows: Sequence[Row], lengths: list[int]) -> None:
        limit = self.section.max_tokens
        long = [(length, row.place) for row, length in zip(rows, lengths, strict=True) if length > limit]
        if long:
            length, place = max(long)
            raise PromptError(
                f"each row must fit into prompt.max_tokens={limit}, but {len(long)} of {len(rows)} do not; the longest "
                f"has {length} tokens ({place}). Raise prompt.max_tokens or shorten these rows",
                code="long-rows",
            )


class Renderer(_RowRenderer):
    """Renders rows for one tokenizer, one prompt and one set of labels.

    Raises:
        PromptError: if the template is not valid Jinja, or the chat template does not put the answer
            behind the prompt unchanged.
    """

    def __init__(self, tokenizer: Any, section: PromptSection, labels: Sequence[str]) -> None:
        super().__init__(tokenizer, section, labels)
        self._answers = {label: self._answer(label) for label in self.labels}
        self._check_distinct()

    def prompt_tokens(self, text: str, columns: Mapping[str, Any] | None = None) -> tuple[int, ...]:
        """The tokens up to where the answer begins.

        Args:
            columns: of the row, for a template that reads more than its text.

        Raises:
            PromptError: if the row has one of the tokenizer's special tokens in it, or the template fails.
        """
        return self.chat.prompt(_asked(self._body(text, columns or {})))

    def prompt(self, text: str, columns: Mapping[str, Any] | None = None) -> str:
        """The rendered prompt, as the model will see it."""
        return self.chat.render(self.chat.opened(_asked(self._body(text, columns or {}))), True)

    def messages(self, row: Row) -> list[Message]:
        """What the model is asked of a row, as messages for its chat template; raises as `prompt_tokens` does."""
        return self.chat.opened(_asked(self._body(row.text, row.columns)))

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

    def length(self, row: Row, is_scored: bool) -> int:
        """The tokens of a row: with its own answer, or with the longest where it is scored."""
        answers = self._answers.values() if is_scored else [self._answers[row.label]]
        return len(self.prompt_tokens(row.text, row.columns)) + max(map(len, answers))

    def _prompts(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        bodies = self._each(rows, lambda row: self._body(row.text, row.columns))
        self._template.check_bodies([row.text for row in rows], bodies)
        places = [Row(body, "", row.place) for body, row in zip(bodies, rows, strict=True)]
        return self._each(places, lambda row: self.chat.prompt(_asked(row.text)))

    def _answer(self, label: str) -> tuple[int, ...]:
        tokens = self.tokenizer(self.chat.lead + label, add_special_tokens=False)["input_ids"]
        return (*tokens, self.chat.end)

    def _check_distinct(self) -> None:
        owners: dict[tuple[int, ...], str] = {}
        for label, tokens in self._answers.items():
            if tokens in owners:
                raise PromptError(
                    f"each label must have its own tokens, but `{name_of(label)}` and `{name_of(owners[tokens])}` have "
                    "the same"
                )
            owners[tokens] = label


class Conversations(_RowRenderer):
    """Renders rows with written answers: a question and its answer, or several turns.

    Args:
        loss: all: every turn of the assistant is trained on; last: the last alone.
        max_new_tokens: what scoring may write behind a prompt.

    Raises:
        PromptError: if a template is not usable.
    """

    def __init__(self, tokenizer: Any, section: PromptSection, loss: str, max_new_tokens: int) -> None:
        super().__init__(tokenizer, section, labels=())
        self.loss = loss
        self.max_new_tokens = max_new_tokens

    def prompt_tokens(self, row: Row) -> tuple[int, ...]:
        """The tokens up to where the answer is to be written.

        Raises:
            PromptError: if the row has one of the tokenizer's special tokens in it, or a template fails.
        """
        return self.chat.prompt(self._messages(row))

    def messages(self, row: Row) -> list[Message]:
        """What the model is asked of a row, as messages for its chat template; raises as `prompt_tokens` does."""
        return self.chat.opened(self._messages(row))

    def answer(self, tokens: Sequence[int]) -> str:
        """What was written, as text."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def answer_length(self, answer: str) -> int:
        """The tokens of an answer, with the one that ends the turn."""
        return len(self.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]) + 1

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """Tokenises training rows, with the first of their reference answers.

        Raises:
            PromptError: if any row is longer than `prompt.max_tokens`.
        """
        self._template.check_bodies([row.text for row in rows], self._each(rows, lambda row: str(self._messages(row))))
        examples = self._each(rows, self._example)
        self._check_lengths(rows, [len(item) for item in examples])
        return examples

    def prompts(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        """Tokenises the prompts of rows to be scored; `max_new_tokens` have to fit behind each.

        Raises:
            PromptError: if any row is longer than `prompt.max_tokens`.
        """
        prompts = self._each(rows, self.prompt_tokens)
        self._check_lengths(rows, [len(prompt) + self.max_new_tokens for prompt in prompts])
        return prompts

    def length(self, row: Row, is_scored: bool) -> int:
        """The tokens of a row: with its own answer, or with what may be written where it is scored."""
        return len(self.prompt_tokens(row)) + self.max_new_tokens if is_scored else len(self._example(row))

    def _example(self, row: Row) -> Example:
        self.chat.check_text(row.answers[0])
        return self.chat.example([*self._messages(row), {"role": "assistant", "content": row.answers[0]}], self.loss)

    def _messages(self, row: Row) -> list[Message]:
        """The conversation up to the answer."""
        if not row.messages:
            return _asked(self._body(row.text, row.columns))
        if self.section.system and row.messages[0][0] == "system":
            raise PromptError(
                "prompt.system must be null where rows have a system message of their own, but this has one"
            )
        messages = row.messages[:-1] if row.answers else row.messages
        for _, content in messages:
            self.chat.check_text(content)
        return [{"role": role, "content": content} for role, content in messages]


def _asked(body: str) -> list[Message]:
    return [{"role": "user", "content": body}]
