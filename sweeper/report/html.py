"""A report as one HTML file: no network, no script, light and dark by the reader's choice."""

from __future__ import annotations

import base64
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sweeper.report import text
from sweeper.report.content import Content, Image

_TYPES = {"png": "image/png", "svg": "image/svg+xml"}


def html(content: Content) -> str:
    """The whole file; every text in it is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"inline": _inline, "plain": text.plain, "command": text.command, "uri": _uri}
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    own = resources.files("sweeper.report")
    style = Markup((own / "report.css").read_text(encoding="utf-8"))  # the package's own
    template = environment.from_string((own / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(content=content, style=style)


def _inline(value: str) -> Markup:
    """A text with its names and commands as code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(piece.text) if piece.is_code else piece.text for piece in text.pieces(value)
    )


def _uri(image: Image) -> str:
    """The picture itself, where an address would stand."""
    return f"data:{_TYPES[image.form]};base64,{base64.b64encode(image.data).decode('ascii')}"
