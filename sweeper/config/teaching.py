"""What a study teaches: its rows, its task, its prompt and its objective. The other sections are in `schema`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sweeper.config.marks import Frozen
from sweeper.errors import unknown


class Section(BaseModel):
    """A part of the configuration: frozen, and without keys that are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


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


_WRITTEN = [("prompt", "answer"), ("question", "context", "answers"), ("code", "comment"), ("messages",)]
KINDS: dict[str, list[tuple[str, ...]]] = {
    "classification": [("text", "label")],
    "generation": _WRITTEN,
    "comments": _WRITTEN,
    "custom": [()],  # its class reads the columns
}


BUNDLED_SOURCES = ("tickets", "docqa", "code-comments")  # sources that are made at run time, and need no path
# Errors that the data doctor finds in rows that could be trained on all the same.
LIFTABLE = (
    "contradictions",
    "doubled-template",
    "huge-row",
    "leak-retention",
    "leak-test",
    "leak-validation",
    "nul",
    "template-missing",
)


def _liftable(value: str) -> str:
    if value not in LIFTABLE:
        raise ValueError(f"must name errors that may be allowed: {unknown('error', value, LIFTABLE)}")
    return value


class DataSection(Section):
    source: Frozen[Literal["tickets", "docqa", "code-comments", "files", "hub"]]
    path: Frozen[str | None]
    splits: SplitsSection
    columns: ColumnsSection
    group: Frozen[str | None]
    seed: Frozen[Annotated[int, Field(ge=0)]]
    class_weight: Frozen[Literal["balanced"] | None]
    loss: Frozen[Literal["all", "last"]]
    long: Frozen[Literal["block", "cut_text_head", "cut_text_tail", "drop"]]
    allow: Frozen[
        list[Annotated[str, AfterValidator(_liftable)]]
    ]  # with which findings a study was begun is part of it


class ClassificationSection(Section):
    name: Frozen[Literal["classification"]]


class WrittenSection(Section):
    """What tasks have whose answers are written."""

    max_new_tokens: Frozen[Annotated[int, Field(ge=1)]]


class GenerationSection(WrittenSection):
    name: Frozen[Literal["generation"]]


class CommentsSection(WrittenSection):
    name: Frozen[Literal["comments"]]


def _target(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
        raise ValueError("must be MODULE.NAME, a module of the study's folder or an installed one and a name in it")
    return value


class CustomSection(WrittenSection):
    """A class of the user's."""

    name: Frozen[Literal["custom"]]
    target: Frozen[Annotated[str, BeforeValidator(_target)]] = Field(alias="_target_")
    arguments: Frozen[dict[str, Any]]


TaskSection = Annotated[
    ClassificationSection | GenerationSection | CommentsSection | CustomSection, Field(discriminator="name")
]
METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "generation": ("exact_match", "token_f1"),
    "comments": ("bleu", "chrf", "rouge_l"),
    "custom": (),
}

# A metric's value stands beside these in a point of a curve, an event or a run.
_IN_EVENTS = ("event", "time", "worker", "number", "index", "kind", "name", "failure")
RESERVED = frozenset({"examples", "duration_s", "evaluations", "best_value", *_IN_EVENTS})


def metric_name_problem(name: Any) -> str | None:
    """Why a metric cannot be called that, in words; None where it can."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or len(name) > 100:
        return f"a metric's name must be up to 100 letters, digits and underscores, but got {name!r}"
    if name.endswith("_se") or name in RESERVED:
        return f"a metric's name must not end in _se or be one of {', '.join(sorted(RESERVED))}, but got {name!r}"
    return None


def _metric(value: Any) -> Any:
    """A name, or `{_target_: MODULE.FUNCTION, name: NAME, ...arguments}`."""
    if isinstance(value, dict):
        if not {"_target_", "name"} <= set(value):
            raise ValueError("must have _target_ (MODULE.FUNCTION) and name (which of its values the search goes by)")
        try:
            _target(value["_target_"])
        except ValueError as error:
            raise ValueError(f"_target_ {error}") from None
    elif not isinstance(value, str):
        raise ValueError("must be a name, or a mapping with _target_ and name")
    if problem := metric_name_problem(value["name"] if isinstance(value, dict) else value):
        raise ValueError(problem)
    return value


class ObjectiveSection(Section):
    metric: Frozen[Annotated[str | dict[str, Any], BeforeValidator(_metric)]]
    direction: Frozen[Literal["maximize", "minimize"]]
    value: Frozen[Literal["best", "last"]]

    @property
    def metric_name(self) -> str:
        """The value that the search goes by."""
        return str(self.metric["name"]) if isinstance(self.metric, dict) else self.metric

    @property
    def is_minimized(self) -> bool:
        return self.direction == "minimize"

    def has_error(self, scores: Mapping[str, float]) -> bool:
        """Whether the metric comes with its standard error."""
        return f"{self.metric_name}_se" in scores

    def is_better(self, value: float, than: float) -> bool:
        return value < than if self.is_minimized else value > than


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
