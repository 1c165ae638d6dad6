"""A report as files: one of HTML, and one of Markdown with its pictures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sweeper.errors import StoreError
from sweeper.paths import StudyPaths, write_atomically
from sweeper.report.facts import Facts
from sweeper.report.figures import figures
from sweeper.report.html import html
from sweeper.report.markdown import markdown
from sweeper.report.report import content


class Form(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "markdown"
    BOTH = "both"


ENDINGS = {".html": Form.HTML, ".htm": Form.HTML, ".md": Form.MARKDOWN, ".markdown": Form.MARKDOWN}


@dataclass(frozen=True)
class Place:
    """Where a report goes.

    Attributes:
        pictures: the folder of those of the Markdown; None: that has their sentences alone.
    """

    html: Path | None = None
    markdown: Path | None = None
    pictures: Path | None = None

    @classmethod
    def folder(cls, paths: StudyPaths, form: Form, folder: Path | None = None) -> Place:
        """In a folder, under their usual names; None: the study's."""
        usual = paths.report_page, paths.report_text, paths.pictures
        page, text, pictures = ((folder or paths.root) / one.name for one in usual)
        if form is Form.HTML:
            return cls(html=page)
        return cls(page if form is Form.BOTH else None, text, pictures)

    @classmethod
    def file(cls, file: Path, form: Form) -> Place:
        """As one file, which needs nothing beside it."""
        return cls(html=file) if form is Form.HTML else cls(markdown=file)


def write(facts: Facts, place: Place) -> list[Path]:
    """Writes a report.

    Returns:
        Its files, pictures left out.

    Raises:
        StoreError: if a file cannot be written.
    """
    try:
        return _write(facts, place)
    except OSError as error:
        raise StoreError(
            f"a report must go where it can be written, but {error.filename or place}: {error.strerror}; --to names "
            "another folder or file"
        ) from error


def _write(facts: Facts, place: Place) -> list[Path]:
    found = figures(facts, on_page=place.html is not None, as_files=place.pictures is not None)
    made = content(facts, found.blocks)
    for file in (place.html, place.markdown):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    if place.html is not None:
        write_atomically(place.html, html(made), is_for_all=True)
    if place.pictures is not None:
        place.pictures.mkdir(parents=True, exist_ok=True)
        for name, drawn in found.files.items():
            write_atomically(place.pictures / f"{name}.png", drawn, is_for_all=True)
    if place.markdown is not None:
        beside = place.pictures.name if place.pictures is not None else None
        write_atomically(place.markdown, markdown(made, beside), is_for_all=True)
    return [file for file in (place.html, place.markdown) if file is not None]
