"""What a study teaches: its rows, its task and its prompt. The other sections are in `schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sweeper.config.marks import Frozen


class Section(BaseModel):
    """A part of the configuration: frozen, and without keys that are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


CUT_SHARE = 0.15  # of the training rows, for a split that is null


def _share(value: Any) -> Any:
    if value is None:
        return CUT_SHARE
    if isinstance(value, bool) or (isinstance(value, int | float) and not 0 < value < 1):
        raise ValueError("must be the name of a split, a share of the training rows between 0 and 1, or null")
    return value


Split = Annotated[str | float, BeforeValidator(_share)]


class SplitsSection(Section):
    """Where the splits are: names, or shares that are cut from `train`."""

    train: Frozen[str]
    validation: Frozen[Split]
    test: Frozen[Split]


def _one_column(value: Any) -> Any:
    if isinstance(value, list | dict):
        raise ValueError("must be one column: a study learns one label. Make one study per column")
    return value


class ColumnsSection(Section):
    """The columns of a row; a kind of row has all of one line of `KINDS` and none of another."""

    text: Frozen[str | None]
    label: Frozen[Annotated[str | None, BeforeValidator(_one_column)]]
    prompt: Frozen[str | None]
    answer: Frozen[str | None]
    question: Frozen[str | None]
    context: Frozen[str | None]
    answers: Frozen[str | None]
    code: Frozen[str | None]
    comment: Frozen[str | None]
    messages: Frozen[str | None]

    def named(self) -> dict[str, str]:
        """Those that are given."""
        return {key: column for key, column in self.model_dump().items() if column is not None}


KINDS: dict[str, list[tuple[str, ...]]] = {
    "classification": [("text", "label")],
    "generation": [("prompt", "answer"), ("question", "context", "answers"), ("code", "comment"), ("messages",)],
}


class DataSection(Section):
    source: Frozen[Literal["tickets", "files", "hub"]]
    path: Frozen[str | None]
    splits: SplitsSection
    columns: ColumnsSection
    group: Frozen[str | None]
    seed: Frozen[Annotated[int, Field(ge=0)]]
    class_weight: Frozen[Literal["balanced"] | None]
    loss: Frozen[Literal["all", "last"]]
    long: Frozen[Literal["block", "cut_text_head", "cut_text_tail", "drop"]]


class ClassificationSection(Section):
    name: Frozen[Literal["classification"]]


class GenerationSection(Section):
    name: Frozen[Literal["generation"]]
    max_new_tokens: Frozen[Annotated[int, Field(ge=1)]]


TaskSection = Annotated[ClassificationSection | GenerationSection, Field(discriminator="name")]
METRICS = {"classification": ("accuracy", "macro_f1"), "generation": ("exact_match", "token_f1")}


def _template_text(value: str | None) -> str | None:
    """The text of a template that is given as a file, so that a study does not depend on the file later."""
    if value is None or "{" in value or "\n" in value:
        return value
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"must be Jinja text or a UTF-8 file with it, but there is no such file ({error})") from None


class PromptSection(Section):
    system: Frozen[str | None]
    template: Frozen[str]
    chat_template: Frozen[Annotated[str | None, AfterValidator(_template_text)]]
    chat_template_kwargs: Frozen[dict[str, Any]]
    max_tokens: Frozen[Annotated[int, Field(ge=8)]]
