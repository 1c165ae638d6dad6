"""`sweeper errors` as a person sees it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from sweeper.cli.main import main
from sweeper.cli.mistakes import Column, rows_table
from sweeper.mistakes import kept
from sweeper.paths import Home
from tests.cli.test_cli import python
from tests.mistakes.conftest import Make, data, keep, make  # noqa: F401  (fixtures)
from tests.mistakes.test_joined import WRONG


def errors(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["errors", "demo", *arguments], env={"COLUMNS": "120"})
    assert done.exit_code == code, done.output
    return done.output


def test_the_winners_errors(make: Make, home: Home) -> None:  # noqa: F811
    paths = make(0.5, 0.75)
    keep(paths, 1, WRONG)
    keep(paths, None, dict.fromkeys((0, 1, 3), ("refund", 0.2)))
    shown = errors()
    assert "demo, trial 1: 4 of 16 validation rows are wrong (25.0%)" in shown
    assert "The untuned base has 3 wrong; the adapter makes 1 of them right, and 2 wrong that the base has" in shown
    assert "By confusion: 3 pairs of labels" in shown
    assert "By length of the prompt" in shown
    assert "By confidence" in shown
    assert "Wrong rows, the surest first: 4" in shown
    assert "[red]validation 1" in shown  # as it is, whatever rich takes it for
    assert shown.index("validation.jsonl:5 ") < shown.index("validation.jsonl:2 ") < shown.index("validation.jsonl:16 ")

    shown = errors("--by", "length", "--limit", "1")
    assert "By confusion" not in shown
    assert "Wrong rows, the longest first: 1 of 4" in shown
    assert "validation.jsonl:16" in shown
    assert "validation.jsonl:5" not in shown
    assert "the untuned base: 3 of 16 validation rows are wrong" in errors("--base", "--by", "confidence")


def test_json_and_csv_have_all_wrong_rows(make: Make, home: Home, tmp_path: Path) -> None:  # noqa: F811
    paths = make(0.5)
    keep(paths, 0, WRONG)
    file = tmp_path / "wrong.csv"
    assert f"all 4 wrong rows, with their text: {file}" in errors("--limit", "1", "--csv", str(file))
    with file.open(newline="", encoding="utf-8") as opened:
        table = list(csv.DictReader(opened))
    found = json.loads(errors("--json"))
    assert (found["rows"], found["wrong"], found["base"], found["trial"]) == (16, 4, None, 0)
    assert [row["text"] for row in table] == [row["text"] for row in found["wrong_rows"]]
    assert table[0]["text"] == "please please please please [red]validation 4"
    assert found["confusions"][0]["rows"] == ["validation.jsonl:5", "validation.jsonl:1"]
    assert len(json.loads(errors("--json", "--limit", "2"))["wrong_rows"]) == 2


def test_a_text_cannot_command_the_terminal(make: Make, home: Home, data: Path) -> None:  # noqa: F811
    file = data / "validation.jsonl"
    file.write_text(file.read_text() + json.dumps({"text": "a\x1b[2Jb", "label": "cancel"}) + "\n")
    paths = make(0.5)
    keep(paths, 0, {16: ("return", 0.99)})
    shown = errors()
    assert "a�[2Jb" in shown
    assert "\x1b" not in shown


def test_what_cannot_be_shown_is_said(make: Make, home: Home) -> None:  # noqa: F811
    paths = make(0.5)
    assert "`sweeper rerun demo --trial 0` makes them" in errors(code=2)
    keep(paths, 0, {})
    assert "0 of 16 validation rows are wrong" in errors()
    assert "must be a file that can be written, but /nowhere/x.csv" in errors("--csv", "/nowhere/x.csv", code=2)
    written = [one.model_copy(update={"truth": None}) for one in kept.read(paths.predictions(0))]
    kept.write(paths.predictions(0), written)
    assert "--by confusion is of labels" in errors("--by", "confusion", code=2)


def test_it_loads_no_model_library(make: Make, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    paths = make(0.5)
    keep(paths, 0, WRONG)
    code = (
        "import sys\nfrom sweeper.cli.main import main\n"
        "try: main(['errors', 'demo', '--json'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'mlflow', 'datasets') if m in sys.modules], file=sys.stderr)"
    )
    done = python(code)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["wrong"] == 4


def test_ids_are_whole_where_the_terminal_is_narrow() -> None:
    columns = {"row": Column.NAME, "confidence": Column.NUMBER, "right": Column.NAME, "text": Column.TEXT}
    lines = [
        [f"tickets validation:{n}", "0.987", "damaged or missing item", "my parcel is late " * 9] for n in (7, 2345)
    ]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(rows_table("Wrong rows", columns, lines, 80))
    for line in lines:
        assert all(cell in captured.get() for cell in line[:3])
    assert "my parcel" in captured.get()
