"""What is planted in rows and in the environment is found nowhere outside the study's folder.

The whole tree of a person's files is searched: home, caches, temporary folder, store; and all that commands print.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from datasets import Dataset

from sweeper.paths import Home
from tests.conftest import SHORT

SENTENCE = "Quärzviolett hums at midnight."
WORD = "rzviolett"  # of it, the same in every way to write it; and a part of it is too much already
TOKEN = "hf_" + "Zq7" * 11
PASSWORDS = {"MLFLOW_TRACKING_PASSWORD": "kestrel over moorland", "PGPASSWORD": "4-bridges-and-a-heron"}
SECRETS = (TOKEN, *PASSWORDS.values())
# What a worker may run into: a library whose exception quotes what it was called with.
CRASH = """
import os, sys
if "sweeper.worker" in sys.orig_argv and "SWEEPER_CRASH" in os.environ:
    import torch
    def refuse(threads):
        print("asked with", os.environ["HF_TOKEN"])
        said = [os.environ[name] for name in ("HF_TOKEN", "PGPASSWORD", "SWEEPER_CRASH")]
        raise RuntimeError(f"401 for {', '.join(said)}")
    torch.set_num_threads = refuse
"""


class Person:
    """Somebody's files, all of them under one folder, and the commands that they run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = Home(root / "store")
        self.data = root / "data"
        self.printed: list[str] = []
        (root / "site").mkdir()
        (root / "site" / "sitecustomize.py").write_text(CRASH)
        folders = {"HOME": "home", "TMPDIR": "tmp", "HF_HOME": "hf", "XDG_CACHE_HOME": "cache"}
        for folder in (*folders.values(), "data"):
            (root / folder).mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))},
            **{name: str(root / folder) for name, folder in folders.items()},
            **PASSWORDS,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "1",
            "SWEEPER_HOME": str(self.home.root),
            "PYTHONPATH": os.pathsep.join([str(root / "site"), os.environ.get("PYTHONPATH", "")]),
        }

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sweeper", *arguments],
            env={**self.environment, **environment},
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == code, done.stdout + done.stderr
        self.printed.append(done.stdout + done.stderr)
        return done.stdout + done.stderr

    def launch(self, *overrides: str, code: int = 0, **environment: str) -> str:
        given = ["launch", *SHORT, "search.trials=2", "evaluation.rows=12", f"data.path={self.data}"]
        given += ["data.allow=[leak-validation,leak-test]", *overrides]  # the splits are of the same rows
        return self.run(*given, code=code, **environment)

    def where(self, needle: str, *, outside: bool = True) -> list[str]:
        """The files with a text in them: outside of the studies' folders and of the data, or in those folders."""
        forms = {
            needle.encode(),
            needle.encode("utf-16-le"),
            needle.encode("utf-16-be"),
            json.dumps(needle)[1:-1].encode(),
        }
        found = []
        for file in sorted(self.root.rglob("*")):
            if not file.is_file() or file.is_relative_to(self.data):
                continue
            if file.is_relative_to(self.home.studies) is outside:
                continue
            if any(form in content for content in contents(file) for form in forms):
                found.append(str(file.relative_to(self.root)))
        return found


def contents(file: Path) -> Iterator[bytes]:
    """A file as it is, and what is packed in it."""
    raw = file.read_bytes()
    yield raw
    if raw.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(file)) as database:
            yield "\n".join(database.iterdump()).encode()
    elif raw.startswith(b"\x1f\x8b"):
        yield gzip.decompress(raw)
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            for name in packed.namelist():
                yield packed.read(name)
    elif raw.startswith(b"PAR1"):
        yield str(Dataset.from_parquet(str(file), keep_in_memory=True).to_list()).encode()


def write_rows(folder: Path) -> None:
    """Splits in three formats; the sentence begins a third of the rows."""
    rows = [
        {"text": (f"{SENTENCE} " if n % 3 == 0 else "") + f"please {verb} the {n}th order", "label": verb}
        for n in range(24)
        for verb in ("cancel", "return")
    ]
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    Dataset.from_list(rows[:36]).to_parquet(folder / "validation.parquet")
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows[:36])), encoding="utf-8")


def general(folder: Path) -> list[str]:
    """Settings with which a study also reads general text that has the sentence, and confirms its best trial."""
    kinds = {"retention.passages": "what a heron knows", "train.replay_text": "what a kestrel knows"}
    for key, words in kinds.items():
        lines = [json.dumps({"id": f"{n}", "text": f"{SENTENCE} That is {words} of the {n}th moor."}) for n in range(4)]
        (folder / f"{key}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    named = [f"{key}={folder / key}.jsonl" for key in kinds]
    return [*named, "retention.sample=2", "train.replay=0.2", "confirmation.top=1", "confirmation.seeds=1"]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    made = Person(tmp_path)
    write_rows(made.data)
    return made


def is_clean(person: Person) -> None:
    """Nothing that was planted is where it must not be."""
    for needle in (WORD, *SECRETS):
        assert person.where(needle) == []
        assert not any(needle in text for text in person.printed)
    for secret in SECRETS:
        assert person.where(secret, outside=False) == []


def test_nothing_of_a_study_leaves_its_folder_until_that_is_asked_for(person: Person) -> None:
    more = general(person.data)
    person.launch(*more, "tracking.report=true")
    for command in (
        ["status", "demo"],
        ["best", "demo", "--json", "--force"],
        ["list"],
        ["report", "demo", "--to", "report"],
        ["export", "demo", "--to", "out", "--force"],
    ):
        person.run(*command)
    assert (person.root / "out" / "sweeper.json").is_file()
    assert {"report.html", "report.md"} <= {file.name for file in person.home.artifacts.rglob("report/*")}
    if os.environ.get("SWEEPER_TESTS") == "all":  # a trace takes a third of a minute
        person.run("plan", "study=demo", "data=files", f"data.path={person.data}")
    is_clean(person)
    assert WORD in person.run("errors", "demo", "--base")  # on the terminal of whoever asks
    assert person.where(WORD) == []

    # It is a live key, and the search above finds what is there to be found.
    assert "tracking.log_text: was False, is True" in person.launch(*more, "search.trials=3", "tracking.log_text=true")
    runs = [file for file in person.where(WORD) if file.startswith("store/artifacts/demo/")]
    assert {re.sub(".*/", "", file) for file in runs} == {"wrong_rows-validation.csv", "wrong_rows-test.csv"}
    assert person.where(WORD) == runs


def test_nothing_of_a_study_that_fails_leaves_its_folder(person: Person) -> None:
    text = person.launch("study.name=crash", "engine.threads=1", code=2, SWEEPER_CRASH=SENTENCE)
    assert "a defect stopped the worker: RuntimeError; message and trace are in" in text
    person.run("list")
    paths = person.home.study("crash")
    assert "asked with [redacted]" in paths.worker_log(0).read_text()
    assert (
        f"RuntimeError: 401 for [redacted], [redacted], {SENTENCE}" in json.loads(paths.outcome(0).read_text())["trace"]
    )

    text = person.launch("study.name=template", "prompt.template='{{ row[text] }}'", code=2)
    assert "prompt.template could not be rendered: UndefinedError: its message quotes the row and is not shown" in text

    with (person.data / "train.csv").open("a", encoding="utf-8") as file:
        file.write(f'{SENTENCE},""\n')
    text = person.launch("study.name=malformed", code=2)
    assert "train.csv:50: `label` must be text or a whole number, but got an empty text; give the row" in text
    is_clean(person)


@pytest.mark.skipif(os.environ.get("SWEEPER_TESTS") != "all", reason="written answers too: SWEEPER_TESTS=all")
def test_nothing_of_a_study_of_written_answers_leaves_its_folder(person: Person) -> None:
    columns = ("data.columns.prompt=label", "data.columns.answer=text")
    person.launch("task=generation", "task.max_new_tokens=24", "prompt.max_tokens=128", *columns)
    for command in (
        ["status", "demo", "--json"],
        ["best", "demo", "--force"],
        ["export", "demo", "--to", "out", "--force"],
    ):
        person.run(*command)
    is_clean(person)
