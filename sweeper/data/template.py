"""`prompt.template`: sandboxed Jinja over the columns of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sweeper.errors import PromptError
from sweeper.quoting import name_of, without_texts

TEXT, LABELS, ROW = "text", "labels", "row"  # beside the columns under their own names


def columns_read(source: str) -> set[str]:
    """The names that a template reads of a row, beside its text; `row` stands for all columns.

    Raises:
        PromptError: if it is not Jinja.
    """
    return _parsed(source)[1] - {TEXT, LABELS}


def _parsed(source: str) -> tuple[Template, set[str]]:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        return environment.from_string(source), meta.find_undeclared_variables(environment.parse(source))
    except TemplateError as error:
        raise PromptError(f"prompt.template must be a Jinja template, but {error}: {source!r}") from None


class RowTemplate:
    """Writes what the user says, from one row.

    It knows each column under its own name, all of them as `row` (for names that are none in Jinja), the text column
    as `text`, and the sorted `labels`.

    Raises:
        PromptError: if it is not Jinja, or reads nothing of the row.
    """

    def __init__(self, source: str, labels: Sequence[str]) -> None:
        self.source = source
        self.labels = list(labels)
        self._template, names = _parsed(source)
        if not names - {LABELS}:
            raise PromptError(f"prompt.template must use the row's text, {{{{ text }}}}, but is {source!r}")

    def render(self, text: str, columns: Mapping[str, Any]) -> str:
        """What the template writes for one row.

        Raises:
            PromptError: naming what it knows, if it fails.
        """
        known = {**columns, TEXT: text, LABELS: self.labels, ROW: {**columns, TEXT: columns.get(TEXT, text)}}
        try:
            return self._template.render(known)
        except Exception as error:  # the template is the user's code, and may raise anything
            names = ", ".join(f"`{name_of(name)}`" for name in sorted(known))
            reason = without_texts(error, [text, columns])
            raise PromptError(
                f"prompt.template could not be rendered: {type(error).__name__}: {reason}; it knows {names}"
            ) from None

    def check_bodies(self, texts: Sequence[str], bodies: Sequence[str]) -> None:
        """Refuses a template that writes the same for rows that differ.

        Raises:
            PromptError: if it does.
        """
        if len(set(texts)) > 1 and len(set(bodies)) == 1:
            raise PromptError(
                f"prompt.template must use the row's text, {{{{ text }}}}, but {self.source!r} writes the same for "
                f"all of {len(texts)} rows"
            )
