# ruff: noqa: F401, F811
"""`sweeper predict` on a folder whose adapter nobody trained: what comes in, what goes out, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import pyarrow
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from sweeper.cli import predict
from sweeper.cli.main import main
from sweeper.data.files import read_file
from sweeper.engine.pack import Pack
from sweeper.exporting import answers
from sweeper.exporting.predict import Answer
from sweeper.paths import Home
from tests.export.conftest import (
    LABELS,
    Export,
    export_of,
    labelling,
    merged,
    merged_4bit,
    unquantised,
)

TEXTS = ["where is my parcel", "cancel it, please", 'line\u2028separator\u0085and "quotes"', "hello"]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setattr(answers, "BLOCK_ROWS", 3)  # so that a few rows are more than one


def run(*arguments: str | Path, code: int = 0, stdin: str | bytes | None = None) -> Result:
    done = CliRunner().invoke(main, ["predict", *map(str, arguments)], input=stdin)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """JSONL with a label, which is no matter, and a list."""
    found = [{"id": n, "text": text, "label": "other", "tags": ["a", "ü"]} for n, text in enumerate(TEXTS)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return file


def test_rows_of_a_file_come_back_with_their_answers(labelling: Path, rows: Path, tmp_path: Path) -> None:
    shown = lines_of(run(labelling, "--rows", rows).stdout)
    given = lines_of(rows.read_text())
    assert [list(row) for row in shown] == [["id", "text", "label", "tags", "prediction", "probability"]] * 4
    assert [{name: row[name] for name in given[0]} for row in shown] == given
    assert all(row["prediction"] in LABELS and 0 < row["probability"] <= 1 for row in shown)
    assert lines_of(run(labelling, stdin=rows.read_bytes()).stdout) == shown

    said = run(labelling, "--rows", rows, "--to", tmp_path / "out.jsonl").stdout
    assert said == f"4 rows with `prediction` and `probability`: {tmp_path / 'out.jsonl'}\n"
    assert [row for _, row in read_file(tmp_path / "out.jsonl", "out")] == shown
    told = json.loads(run(labelling, "--rows", rows, "--to", tmp_path / "out.csv", "--json").stdout)
    assert told == {"file": str(tmp_path / "out.csv"), "rows": 4}
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as text:
        table = list(csv.DictReader(text))
    assert [(row["text"], row["prediction"], float(row["probability"])) for row in table] == [
        (row["text"], row["prediction"], row["probability"]) for row in shown
    ]
    assert {row["tags"] for row in table} == {'["a", "ü"]'}


def test_csv_and_parquet_say_the_same(labelling: Path, rows: Path, tmp_path: Path) -> None:
    shown = [row["prediction"] for row in lines_of(run(labelling, "--rows", rows).stdout)]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerows([["text", "empty"], *([text, ""] for text in TEXTS)])
    found = lines_of(run(labelling, "--rows", tmp_path / "rows.csv").stdout)
    assert [row["prediction"] for row in found] == shown
    times = pyarrow.array([0] * 4, pyarrow.timestamp("s"))
    parquet.write_table(pyarrow.table({"text": TEXTS, "at": times}), tmp_path / "rows.parquet")
    found = lines_of(run(labelling, "--rows", tmp_path / "rows.parquet").stdout)
    assert [row["prediction"] for row in found] == shown
    assert found[0]["at"] == "1970-01-01 00:00:00"
    parquet.write_table(pyarrow.table({"text": TEXTS, "raw": [b"\0"] * 4}), tmp_path / "raw.parquet")
    said = run(labelling, "--rows", tmp_path / "raw.parquet", code=2).stderr
    assert "raw.parquet:1: must have values that JSON can write, but one is of type bytes" in said


def test_every_label_has_a_probability(labelling: Path, rows: Path, tmp_path: Path) -> None:
    for row in lines_of(run(labelling, "--rows", rows, "--probabilities").stdout):
        assert list(row["probabilities"]) == LABELS
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probabilities"][row["prediction"]] == row["probability"]
    run(labelling, "--rows", rows, "--probabilities", "--to", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            assert row[f"probability of {row['prediction']}"] == row["probability"]
            assert sum(float(row[f"probability of {label}"]) for label in LABELS) == pytest.approx(1, abs=1e-5)


def test_a_text_alone(labelling: Path) -> None:
    label = run(labelling, "hello").stdout
    assert label.strip() in LABELS
    [row] = lines_of(run(labelling, "hello", "--json", "--probabilities").stdout)
    assert list(row) == ["text", "prediction", "probability", "probabilities"]
    assert run(labelling, "hello", "hello").stdout == label * 2

    shown = run(labelling, "hello", "bye", "--probabilities").stdout
    first, second = shown.split("\n\n")
    assert (first.split("\n")[0], second.split("\n")[0]) == ("hello", "bye")
    table = [re.fullmatch(r"  (.+?) +(<?[\d.]+)%(  \(predicted\))?", line) for line in first.split("\n")[1:]]
    assert all(table)
    likeliest = sorted(row["probabilities"].values(), reverse=True)
    assert [f"{share:.1%}" if share >= 0.001 else "<0.1%" for share in likeliest[:5]] == [
        f"{match[2]}%" for match in table[:5] if match
    ]
    assert row["prediction"] in first


def test_what_is_predicted_is_shown_though_it_is_not_the_likeliest() -> None:
    shares = {"a": 0.3, "b": 0.25, "c": 0.2, "d": 0.1, "e": 0.08, "long f": 0.0695, "g": 0.0005}
    assert predict._table(Answer("long f", shares["long f"], shares)) == [
        "  a        30.0%",
        "  b        25.0%",
        "  c        20.0%",
        "  d        10.0%",
        "  e         8.0%",
        "  long f    7.0%  (predicted)",
        "  1 more   <0.1%",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            '{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n{"txt": "d"}\n',
            "own.jsonl:4: must have the column `text`, but",
        ),
        ('{"text": "a"}\n{"text": " "}\n', "own.jsonl:2: `text` must be text, but got an empty text"),
        ('{"text": "a", "probability": 1}\n', "own.jsonl:1: `probability` is added to each row, so none may have it"),
        ('{"text": "a"}\nnothing\n', "own.jsonl, line 2: must be one JSON object"),
        ('{"text": "a <|end|> b"}\n', "own.jsonl:1: a text must not have special tokens"),
        ("\n", "must have rows, but"),
    ],
)
def test_a_row_that_is_not_usable_is_named_before_any_is_answered(
    labelling: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    expected: str,
) -> None:
    monkeypatch.setattr(Pack, "choose_next", None)
    (tmp_path / "own.jsonl").write_text(content)
    done = run(labelling, "--rows", tmp_path / "own.jsonl", "--to", tmp_path / "out.jsonl", code=2)
    assert expected in done.stderr
    assert [file.name for file in tmp_path.iterdir() if "out" in file.name] == []
    if "rows, but" not in expected:
        where = expected.replace("own.jsonl:", "standard input, line ").replace("own.jsonl,", "standard input,")
        assert where in run(labelling, code=2, stdin=content).stderr


def test_what_cannot_be_written_is_said(labelling: Path, rows: Path, tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        return run(labelling, *arguments, code=2).stderr

    (tmp_path / "there.csv").write_text("mine")
    assert "--to: the file must not exist yet" in refused("--rows", rows, "--to", tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert "--to: must be one of .jsonl, .csv" in refused("--rows", rows, "--to", tmp_path / "out.parquet")
    assert "there is no folder" in refused("--rows", rows, "--to", tmp_path / "no" / "out.csv")
    assert "--rows: must be one of .jsonl, .csv, .parquet, .json" in refused("--rows", tmp_path / "rows.txt")
    assert "No such file" in refused("--rows", tmp_path / "none.csv")
    assert "texts and --rows exclude each other" in refused("hello", "--rows", rows)
    assert "--force replaces the file of --to" in refused("hello", "--force")
    (tmp_path / "differ.jsonl").write_text('{"text": "a"}\n{"text": "b", "n": 1}\n')
    said = refused("--rows", tmp_path / "differ.jsonl", "--to", tmp_path / "out.csv")
    assert "differ.jsonl:2: each row of a CSV must have the columns of the first, but only one of the two has n" in said
    (tmp_path / "half.jsonl").write_text('{"text": "a", "other": "\\ud83d"}\n')
    half = ("--rows", tmp_path / "half.jsonl")
    assert "half of a character" in refused(*half, "--to", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    assert lines_of(run(labelling, *half).stdout)[0]["other"] == "\ud83d"
    run(labelling, "--rows", rows, "--to", tmp_path / "there.csv", "--force")
    assert (tmp_path / "there.csv").read_text().startswith("id,text,")


def test_standard_input_without_a_row_is_answered_with_nothing(labelling: Path) -> None:
    assert run(labelling, stdin="").stdout == ""


def test_a_terminal_is_not_waited_for(labelling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked = predict.Asked(labelling, (), None, None, False, False, False, False)
    with pytest.raises(click.UsageError, match="give texts, --rows FILE, or JSONL"):
        predict.show(Home.from_environment(), asked)


def test_of_what_is_interrupted_nothing_stays(
    labelling: Path,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered, calls = Pack.choose_next, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return answered(*arguments)

    monkeypatch.setattr(Pack, "choose_next", interrupted)
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(
        main, ["predict", str(labelling), "--rows", str(rows), "--to", str(tmp_path / "out.jsonl")]
    )
    assert done.exit_code == 1
    assert sorted(tmp_path.iterdir()) == before


def test_progress_is_for_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    predict._progress(10, is_shown=True)(4)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(predict.time, "monotonic", iter([0.0, 2.0, 5.0]).__next__)
    say = predict._progress(10, is_shown=True)
    say(4)
    say(10)
    said = capsys.readouterr().err
    assert "4 of 10 rows, 2 rows/s, less than a minute left" in said
    assert said.endswith("10 of 10 rows, 2 rows/s\n")


def test_written_answers(export_of: Export, tmp_path: Path) -> None:
    folder = export_of(
        "task=generation", "task.max_new_tokens=3", "data.columns.prompt=text", "data.columns.answer=label"
    )
    [row] = lines_of(run(folder, "hello", "--json").stdout)
    assert 0 < row["probability"] <= 1
    assert (
        "--probabilities: needs a task that chooses among labels"
        in run(folder, "hello", "--probabilities", code=2).stderr
    )


def test_merged_folders_answer_and_are_priced(
    merged: Path,
    merged_4bit: Path,
    rows: Path,
    tmp_path: Path,
) -> None:
    for folder, words in ((merged, "merged, 16-bit"), (merged_4bit, "merged, 4-bit")):
        own = shutil.copytree(folder, tmp_path / folder.name)
        (own / "README.md").write_text("mine")
        assert len(lines_of(run(own, "--rows", rows).stdout)) == 4
        priced = ["price-inference", str(own), "--rows", str(rows), "--requests", "2", "--batches", "2"]
        done = CliRunner().invoke(main, priced)
        assert done.exit_code == 0, done.output
        assert f"the adapter is {words}; 2 requests" in done.output
        found = json.loads(CliRunner().invoke(main, [*priced, "--json"]).stdout)
        assert (found["adapter"], [speed["batch"] for speed in found["batches"]]) == (words, [1, 2])
