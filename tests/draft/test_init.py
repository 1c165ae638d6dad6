"""From a person's file to a finished search, without an editor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sweeper.cli.main import main
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.draft import numbers
from sweeper.errors import ModelError
from sweeper.paths import Home
from sweeper.search.advice import shortfall
from sweeper.search.views import view
from sweeper.worker.session import Session
from tests.draft.conftest import Brought, export_of
from tests.memory_tracker import MemoryTracker

# A search in seconds.
SMALL = [
    "train.examples=16",
    "train.batch_size=8",
    "evaluation.count=2",
    "evaluation.rows=8",
    "search.trials=2",
    "retention.choices=null",
    "retention.passages=null",
    "engine.slots=2",
]
PAGE = Path(__file__).parents[2] / "studies" / "README.md"


@pytest.fixture
def sweeper(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A command in this process, from an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


def said(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


EXPECTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "csv": ("Ticket-export-May", "classification", {"text": "Body (raw), cleaned", "label": "Assigned team"}),
    "jsonl": ("chats", "generation", {"messages": "dialog"}),
    "parquet": ("faq", "generation", {"prompt": "userQuestion", "answer": "OurReply"}),
    "folder": ("mails-2026", "classification", {"text": "E-Mail", "label": "Queue"}),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_from_a_file_to_a_finished_search(
    kind: str, brought: Brought, sweeper: Callable[..., Result], home: Home, composed: Callable[..., Config]
) -> None:
    name, task, columns = EXPECTED[kind]
    output = said(sweeper("init", brought(kind)))
    study = f"study=studies/{name}"
    assert f"sweeper launch {study}" in output
    checked = said(sweeper("data", "check", study))
    assert f"{name}: every row can be trained on and scored, " in checked
    config = composed(study, *SMALL)
    assert (config.task.name, config.data.columns.named()) == (task, columns)
    if kind in ("csv", "jsonl") or os.environ.get("SWEEPER_TESTS") == "all":
        done = subprocess.run(
            [sys.executable, "-m", "sweeper", "launch", study, *SMALL], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        assert "look at the runs: " in done.stdout
        is_of_use = shortfall(view(home, name), config) is None  # an export would refuse it otherwise
        assert (f"sweeper export {name} --to DIR" in done.stdout) == is_of_use
    else:  # the same, in this process
        paths = home.study(name)
        paths.create()
        check.save(check.with_absolute_paths(config), paths)
        assert Session(paths, MemoryTracker(), lambda: False).run() == {"status": "finished"}
    seen = view(home, name)
    assert [trial.state for trial in seen.trials] == ["COMPLETE", "COMPLETE"]
    assert set(seen.attributes["test"]) >= {"winner", "base", "rows"}


def test_what_is_written_says_what_it_does(brought: Brought, sweeper: Callable[..., Result]) -> None:
    said(sweeper("init", brought("csv"), "--to", "here"))
    text = Path("here/config.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert values["data"]["splits"] == {"train": "train", "validation": 0.15, "test": 0.15}
    assert values["prompt"]["max_tokens"] % 32 == 0
    assert '# group: "Customer name"' in text
    assert "study=./here" in text
    readme = Path("here/README.md").read_text(encoding="utf-8")
    assert "| Body (raw), cleaned | texts of 121 characters on average, 600 different in 600 rows | `text` |" in readme
    rows = brought("csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    assert not [row for row in rows if row.split(",")[3] in text + readme]  # its text may be anybody's


@pytest.mark.parametrize("name", ["2024", "true", "null"])
def test_a_name_may_be_one_that_yaml_reads_otherwise(name: str, sweeper: Callable[..., Result]) -> None:
    odd = ["Body ${USD}", "Team\nname"]  # and a line break, as spreadsheets have them
    rows = [f"some words with {n},{'xy'[n % 2]}" for n in range(40)]
    Path(f"{name}.csv").write_text("\n".join([",".join(f'"{column}"' for column in odd), *rows]), encoding="utf-8")
    said(sweeper("init", f"{name}.csv", "--column", f"text={odd[0]}", "--column", f"label={odd[1]}"))
    assert f"{name}: every row can be trained on" in said(sweeper("data", "check", f"study=studies/{name}"))


def test_a_study_that_is_there_is_not_written_over(brought: Brought, sweeper: Callable[..., Result]) -> None:
    file = brought("csv")
    said(sweeper("init", file))
    again = sweeper("init", file)
    assert again.exit_code == 2
    config, readme = (f"studies/Ticket-export-May/{name}" for name in ("config.yaml", "README.md"))
    assert f"there is {config} and {readme}; --force writes over both" in again.output
    assert "macro" not in said(sweeper("init", file, "--force"))


def test_a_readme_that_is_there_is_not_written_over(brought: Brought, sweeper: Callable[..., Result]) -> None:
    readme = Path("notes/README.md")
    readme.parent.mkdir()
    readme.write_text("mine", encoding="utf-8")
    refused = sweeper("init", brought("csv"), "--to", "notes")
    assert refused.exit_code == 2
    assert "neither config.yaml nor README.md, but there is notes/README.md; --force writes over it" in refused.output
    assert [file.read_text(encoding="utf-8") for file in Path("notes").iterdir()] == ["mine"]
    said(sweeper("init", brought("csv"), "--to", "notes", "--force"))
    assert "mine" not in readme.read_text(encoding="utf-8").split("\n")


def test_another_model_gets_another_prompt_and_other_rates(brought: Brought, sweeper: Callable[..., Result]) -> None:
    output = said(sweeper("init", brought("csv"), "--model", "smollm2-135m", "--name", "small"))
    values = yaml.safe_load(Path("studies/small/config.yaml").read_text(encoding="utf-8"))
    assert values["search"]["space"]["learning_rate"] == {"low": 1e-4, "high": 2e-3, "log": True}
    assert values["prompt"]["template"].startswith("Which of these fits: {{ labels | join(', ') }}?")
    # Without network and cache its tokenizer is not there.
    assert "prompt.max_tokens is a guess" in output or values["prompt"]["max_tokens"] < 512


def test_any_folder_with_a_model_can_be_the_base(
    brought: Brought, sweeper: Callable[..., Result], composed: Callable[..., Config]
) -> None:
    tiny = Path(check.__file__).parents[1] / "models" / "tiny" / "weights"
    said(sweeper("init", brought("folder"), "--model", tiny, "--name", "own"))
    config = composed("study=studies/own")
    assert (config.model.path, config.model.name) == (str(tiny), "weights")
    assert "own: every row" in said(sweeper("data", "check", "study=studies/own"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.csv"], "there must be a file or a folder"),
        (["rows.xlsx"], "rows are read from .jsonl, .csv, .parquet, .json, but rows.xlsx is none"),
        (["two"], "a folder needs a file for training, named such as train.csv, but"),
        (["shards"], "has 2 for train: train-0.csv, train-1.csv"),
        (["empty.csv"], "there must be rows to train on"),
        (["rows.csv", "--name", "a/b"], "--name: must have 1 to 64 letters"),
        (["rows.csv", "--column", "text"], "--column: must be KEY=COLUMN"),
        (["rows.csv", "--column", "words=a"], "which is for what could not be told with `words` as given"),
        (["rows.csv", "--task", "generation"], "must make a task of generation"),
    ],
)
def test_what_cannot_be_drafted_is_said(arguments: list[str], expected: str, sweeper: Callable[..., Result]) -> None:
    Path("rows.xlsx").write_bytes(b"PK")
    Path("empty.csv").write_text("text,label\n", encoding="utf-8")
    lines = [f"some words with {n},{'xy'[n % 2]}" for n in range(40)]
    Path("rows.csv").write_text("\n".join(["a,b", *lines]), encoding="utf-8")
    for folder, names in (("two", ["a.csv", "b.csv"]), ("shards", ["train-0.csv", "train-1.csv"])):
        Path(folder).mkdir()
        for name in names:
            Path(folder, name).write_text("text,label\n", encoding="utf-8")
    result = sweeper("init", *arguments)
    assert result.exit_code == 2
    assert expected in result.output
    assert not Path("studies").exists()


def test_the_page_shows_what_is_written(tmp_path: Path, sweeper: Callable[..., Result]) -> None:
    file = export_of(tmp_path, rows=2400)
    said(sweeper("init", file, "--name", "tickets-may"))
    written = Path("studies/tickets-may/config.yaml").read_text(encoding="utf-8").replace(str(tmp_path), "/data")
    shown = re.search(r"```yaml\n(# Ticket export.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert shown[1] == written


def test_a_file_can_be_checked_before_there_is_a_study(brought: Brought, sweeper: Callable[..., Result]) -> None:
    found = json.loads(said(sweeper("data", "check", brought("folder"), "--json")))
    assert found["splits"]["train"]["rows"] == 96
    assert found["shown"][1][1]


def refused(*_: object) -> None:
    raise ModelError("its tokenizer is not here")


@pytest.mark.parametrize(
    ("words", "is_measured", "expected"),
    [
        (20, True, "the longest reference answer fits"),
        (600, True, "the longest reference answer takes 1,2"),
        (20, False, "a guess: the rows could not be measured"),
    ],
)
def test_whether_written_answers_have_room_is_said(
    words: int, is_measured: bool, expected: str, sweeper: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_measured:
        monkeypatch.setattr(numbers, "load_tokenizer", refused)
    rows = [{"question": f"what of {n}?", "answer": " ".join(["word"] * words)} for n in range(12)]
    Path("faq.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said(sweeper("init", "faq.jsonl", "--column", "prompt=question", "--column", "answer=answer"))
    text = Path("studies/faq/config.yaml").read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if line.startswith("  max_new_tokens:")]
    assert f"  # a written answer ends here; {expected}" in line


def test_a_file_is_checked_with_the_columns_that_are_said(sweeper: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "Übersicht.csv"
    words = ("printer", "invoice", "parcel", "password")
    lines = [f"the {words[n % 4]} of room {n} again,{words[n % 4]},{words[n % 3]} {n}" for n in range(200)]
    file.write_text("\n".join(["eins,zwei,drei", *lines]), encoding="utf-8")
    columns = ("--column", "text=eins", "--column=label=zwei")
    shown = sweeper("data", "check", file, *columns, "data.long=drop")
    assert "4 labels in training" in shown.output
    assert "Ubersicht: " in shown.output  # a letter's mark leaves no gap
    wrong = sweeper("data", "check", file, "--column", "text")
    assert (wrong.exit_code, "--column: must be KEY=COLUMN" in wrong.output) == (2, True)
    wrong = sweeper("data", "check", "study=demo", "--column", "text=eins")
    assert (wrong.exit_code, "a study has data.columns.text=eins" in wrong.output) == (2, True)
    wrong = sweeper("data", "check", file, "--columns", "text=eins")
    assert (wrong.exit_code, "or --column text=NAME, but there is '--columns'" in wrong.output) == (2, True)
