"""Nothing is longer than one can keep in mind, or the reason is here."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sweeper"
MODULE_LINES, FUNCTION_LINES = 400, 60
REASONS = {"engine/pack.py": "one class: training and scoring share its slots, their layout and the planner's parts"}


def _modules() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if not {"conf", "studies"} & set(file.parts)]


def test_no_module_is_too_long() -> None:
    lines = {file.relative_to(PACKAGE).as_posix(): file.read_text("utf-8").count("\n") for file in _modules()}
    assert {name for name, count in lines.items() if count > MODULE_LINES} == set(REASONS)


def test_no_function_is_too_long() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}: {node.name}"
        for file in _modules()
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    ]
    assert found == []
