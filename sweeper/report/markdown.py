"""A report as Markdown, as GitHub shows it. What a person has written is escaped: it is text, never a form of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sweeper.report import text
from sweeper.report.content import Block, Bullets, Code, Content, Figure, Folded, Paragraph, Table

# Entities, which every renderer takes for letters: also in a table, and where it knows of formulas between dollars.
_ENTITIES = {ord(letter): f"&#{ord(letter)};" for letter in "&<>|*`[]\\~$#@"}
_EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # within a word it is one everywhere
_OPENING = re.compile(r"^(?:[-+=](?=[\s=-]|$)|\d+(?=[.)](?:\s|$)))")  # of a line, what would begin a list or a rule


def markdown(content: Content, pictures: str | None = None) -> str:
    """The whole file.

    Args:
        pictures: the folder of the pictures, as seen from the file; None: their sentences alone.
    """
    parts = [f"# {escaped(content.title)}"]
    if content.description:
        parts.append(escaped(content.description))
    parts += [f"**{inline(content.answer)}**", inline(content.state)]
    for section in content.sections:
        parts.append(f"## {escaped(section.title)}")
        for block in section.blocks:
            parts += _block(block, pictures)
    return "\n\n".join(parts) + "\n"


def _block(block: Block, pictures: str | None) -> Iterator[str]:
    match block:
        case Paragraph():
            yield inline(block.text)
        case Bullets():
            yield "\n".join(f"- {inline(item)}" for item in block.items)
        case Code():
            yield fenced(text.command(block.text), block.language)
        case Table():
            yield f"**{inline(block.caption)}**"
            yield table(block)
        case Figure():
            yield f"### {escaped(block.title)}"
            if pictures is not None:
                yield f"![{escaped(block.sentence)}]({pictures}/{block.name}.png)"  # which has the sentence in it
            else:
                yield inline(block.sentence)
        case Folded():
            yield f"<details><summary>{escaped(block.summary)}</summary>"
            for inner in block.blocks:
                yield from _block(inner, pictures)
            yield "</details>"


def table(found: Table) -> str:
    """A table; its row that stands out is bold."""
    lines = [_row(inline(name, is_cell=True) for name in found.columns)]
    lines.append(_row("---:" if place in found.numbers else "---" for place in range(len(found.columns))))
    for place, row in enumerate(found.rows):
        cells = (inline(cell, is_cell=True) for cell in row)
        lines.append(_row(f"**{cell}**" if place == found.strong and cell else cell for cell in cells))
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def inline(value: str, is_cell: bool = False) -> str:
    """A text with its names and commands as code; in a cell of a table a bar would end it even there."""
    bar = r"\|" if is_cell else "|"
    made = "".join(
        f"`{piece.text.replace('|', bar)}`" if piece.is_code else _letters(piece.text) for piece in text.pieces(value)
    )
    return made if is_cell else _OPENING.sub(_entity, made)


def escaped(value: str) -> str:
    """A text that is no Markdown, whatever it looks like."""
    return _OPENING.sub(_entity, _letters(text.plain(value)))


def _letters(value: str) -> str:
    return _EDGE_UNDERSCORE.sub("&#95;", value.translate(_ENTITIES))


def _entity(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(letter)};" for letter in match[0])


def fenced(command: str, language: str = "sh") -> str:
    """A command between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{command}\n{fence}"
