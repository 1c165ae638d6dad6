"""What a report says, apart from how it looks: sections of paragraphs, lists, tables, pictures and commands.

All texts are plain; what stands between `backticks` is a name or a command. Both renderings, `html.py` and
`markdown.py`, escape everything, so a text may come from a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """A command, as it is typed, or a piece of code in another language."""

    text: str
    language: str = "sh"


@dataclass(frozen=True)
class Table:
    """A table with a header.

    Attributes:
        caption: what it shows.
        numbers: which columns are set to the right.
        strong: a row that stands out, by its place.
        has_names: whether the first column names its rows.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    strong: int | None = None
    has_names: bool = True


@dataclass(frozen=True)
class Image:
    """A picture in one theme, as a file."""

    form: str  # png or svg
    data: bytes


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        name: the stem of its files.
        sentence: what it says, which is also its text where pictures are not shown.
        light, dark: None where only the sentence is wanted.
    """

    name: str
    title: str
    sentence: str
    light: Image | None = None
    dark: Image | None = None


@dataclass(frozen=True)
class Folded:
    """What is shown on demand."""

    summary: str
    blocks: tuple[Paragraph | Bullets | Code | Table, ...]


Block = Paragraph | Bullets | Code | Table | Figure | Folded


@dataclass(frozen=True)
class Section:
    """A part with a heading; without blocks it is left out."""

    name: str  # of its anchor
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Content:
    """A whole report.

    Attributes:
        state: whether the study is finished, and of when this is.
        answer: what came of it, in two sentences.
    """

    title: str
    description: str
    state: str
    answer: str
    sections: tuple[Section, ...] = field(default=())


def paragraphs(texts: Sequence[str | None]) -> tuple[Paragraph, ...]:
    """A paragraph for each text that there is."""
    return tuple(Paragraph(text) for text in texts if text)


def bullets(texts: Sequence[str]) -> tuple[Bullets, ...]:
    """A list, where there is something in it."""
    return (Bullets(tuple(texts)),) if texts else ()


def pairs(caption: str, values: dict[str, str | None]) -> Table:
    """A table of names and values, those left out that are None."""
    rows = tuple((name, value) for name, value in values.items() if value is not None)
    return Table(caption, ("", ""), rows)
