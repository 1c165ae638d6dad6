"""The bundled `code-comments` data: functions of the standard library, and the first sentences of their docstrings.

It is read at run time from the sources of the Python that runs, with `ast`: the docstring, decorators, comments and
return annotations are gone from the code, so nothing of the answer is left in it. No module is in two splits, and no
code or comment occurs twice. The same installation always gives the same rows; another version of Python, or a
distribution that leaves modules out, gives others (a study records the sha256 of what it read).
"""

from __future__ import annotations

import ast
import random
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from sweeper.errors import DataError

# In the order in which modules are dealt out: training gets what is left.
SPLIT_ROWS = {"test": 300, "validation": 150, "train": 800}
_SEED = 17
_MODULE_ROWS = 20  # at most, so that no module sets the tone
_CODE = range(30, 281)  # characters
_LINES = 20
_COMMENT = range(15, 91)
_PLAIN = re.compile(r"[A-Z][ -~]* [ -~]*[^:]")  # no heading, no signature in place of a sentence
_LEFT_OUT = {"test", "tests", "idlelib", "turtledemo", "lib2to3", "site-packages", "__phello__"}
# A sentence ends before white space and a capital letter, not at "e.g. this".
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'`(])|\n\s*\n")


def splits() -> dict[str, list[dict[str, str]]]:
    """The train, validation and test rows: fields `id`, `code`, `comment`.

    Raises:
        DataError: if this Python has too few sources.
    """
    modules = _modules()
    random.Random(_SEED).shuffle(modules)
    seen: set[str] = set()
    rows: dict[str, list[dict[str, str]]] = {split: [] for split in ("train", "validation", "test")}
    wanted = iter(SPLIT_ROWS)
    split = next(wanted)
    for name, file in modules:
        fresh: list[dict[str, str]] = []
        for place, code, comment in _functions(file):
            if code not in seen and comment not in seen and len(fresh) < _MODULE_ROWS:
                seen |= {code, comment}
                fresh.append({"id": f"{name}:{place}", "code": code, "comment": comment})
        rows[split] += fresh[: SPLIT_ROWS[split] - len(rows[split])]
        if len(rows[split]) == SPLIT_ROWS[split]:
            split = next(wanted, "")
            if not split:
                return rows
    raise DataError(
        f"data.source=code-comments must find {sum(SPLIT_ROWS.values())} functions in the sources of the standard "
        f"library, but {_root()} has {sum(map(len, rows.values()))}; install all of Python's library"
    )


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _modules() -> list[tuple[str, Path]]:
    """The modules of the standard library that have a source, by their dotted names."""
    found = []
    for name in sys.stdlib_module_names:  # not the whole folder: installed packages lie there too
        files = [_root() / f"{name}.py", *(_root() / name).rglob("*.py")]
        for file in filter(Path.is_file, files):
            parts = file.relative_to(_root()).with_suffix("").parts
            if not _LEFT_OUT & set(parts):
                found.append((".".join(parts), file))
    return sorted(found)


def _functions(file: Path) -> Iterator[tuple[str, str, str]]:
    """The functions of a module that have a short code and a short comment: name, code, comment."""
    with warnings.catch_warnings(action="ignore"):  # of escapes in old sources
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError):  # a template, or not readable here
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (documentation := ast.get_docstring(node)):
            comment = _first_sentence(documentation)
            node.body = node.body[1:]
            node.decorator_list, node.returns = [], None
            if not _is_short(node) or len(comment) not in _COMMENT or not _PLAIN.fullmatch(comment):
                continue
            code = ast.unparse(node)
            if len(code) in _CODE and code.isascii():
                yield node.name, code, comment


def _is_short(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether there is a body that may be short enough: writing out what is not takes most of the time."""
    return bool(node.body) and (node.end_lineno or 0) - node.body[0].lineno < _LINES


def _first_sentence(documentation: str) -> str:
    return " ".join(_SENTENCE_END.split(documentation.strip(), maxsplit=1)[0].split())
