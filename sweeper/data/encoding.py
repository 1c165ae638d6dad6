"""The bytes of a file as text: UTF-8 alone, and the command that converts another encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

from sweeper.errors import DataError

HEAD_BYTES = 4096
LATIN = "WINDOWS-1252"  # what a file of Western text is that is neither


def check(file: Path | str, head: bytes) -> None:
    """Refuses a file in UTF-16 or UTF-32, by its first bytes.

    Raises:
        DataError: with the command that converts it.
    """
    marks = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}  # first: one begins like the next
    marks |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
    name = next((name for mark, name in marks.items() if head.startswith(mark)), None)
    if name is None and len(head) > 3:  # without a mark, most other bytes of Western text are NULs
        even, odd = (head[start::2].count(0) / len(head[start::2]) for start in (0, 1))
        name = "UTF-16LE" if odd > 0.5 > even else "UTF-16BE" if even > 0.5 > odd else None
    if name is not None:
        raise DataError(f"{file}: must be UTF-8, but is {name}; {recode(name)}", code="encoding")


def decoded(file: Path, content: bytes) -> str:
    """All of a file as text.

    Raises:
        DataError: with the line that is not UTF-8, and the command that converts the file.
    """
    check(file, content[:HEAD_BYTES])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{file}, line {line}: must be UTF-8, but {error.reason}; {recode(LATIN)}", code="encoding"
        ) from None


def recode(encoding: str) -> str:
    """The command that converts a file to UTF-8."""
    return f"iconv -f {encoding} -t UTF-8 FILE > NEW converts it"
