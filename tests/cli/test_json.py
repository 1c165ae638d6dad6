"""What scripts read: JSON on standard output, nothing else there, and whatever is said on standard error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from sweeper.cli.main import main
from sweeper.paths import Home
from tests.conftest import SHORT, share_formulas

Launched = tuple[Home, subprocess.CompletedProcess[str]]
WITHOUT = {"ui", "serve", "completion"}  # they serve until they are ended; it prints for a shell
AMONG_OVERRIDES = {"launch", "plan"}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, few_tickets: Path, formulas: Path) -> Launched:
    """A small study, and what its launch printed for scripts."""
    home = Home(tmp_path_factory.mktemp("json") / "store")
    home.create()
    share_formulas(formulas, home.memory)
    arguments = [*SHORT, f"data.path={few_tickets}", "search.trials=2", "on_finish='echo done'", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", "launch", *arguments],
        env={**os.environ, "SWEEPER_HOME": str(home.root)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    share_formulas(home.memory, formulas)
    return home, done


def lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_launch_prints_its_events_and_its_result(launched: Launched) -> None:
    home, done = launched
    assert done.returncode == 0, done.stderr
    *events, result = lines_of(done.stdout)
    written = lines_of(home.study("demo").events.read_text(encoding="utf-8"))
    assert events == written
    assert [event["number"] for event in events if event["event"] == "trial_ended"] == [0, 1]
    assert {"peak_gib", "budget_gib"} == set(next(one for one in events if one["event"] == "tick")["memory"])
    assert (result["event"], result["outcome"], result["exit_code"], result["error"]) == ("result", "finished", 0, None)
    assert (result["study"], sum(result["counts"].values())) == ("demo", 2)
    assert "warning: " in done.stderr  # what the data doctor says is for a person


def test_a_worker_keeps_a_log(launched: Launched) -> None:
    paths = launched[0].study("demo")
    lines = paths.worker_log(0).read_text(encoding="utf-8").splitlines()
    assert "INFO sweeper.worker: worker 0 of demo begins: process " in lines[0]
    assert lines[-1].endswith("INFO sweeper.worker: worker 0 of demo ends: finished")
    assert any("INFO sweeper.events: trial_ended: number 1, " in line for line in lines)
    assert not any("sweeper.events: tick" in line for line in lines)
    assert {file.name for file in paths.root.iterdir()} <= paths.known


READERS = [
    ["list"],
    ["status", "demo"],
    ["best", "demo", "--force"],
    ["cost", "demo"],
    ["errors", "demo"],
    ["interaction", "demo"],
    ["export", "demo", "--to", "{folder}/adapter", "--force"],
    ["init", "{tickets}", "--to", "{folder}/drafted"],
    ["data", "check", "{tickets}/train.jsonl"],
    ["stop", "demo"],
    ["clean"],
    ["clean", "demo", "--whole"],
]


@pytest.mark.parametrize("arguments", READERS, ids=[" ".join(one[:2]) + " …" * (len(one) > 2) for one in READERS])
def test_standard_output_has_json_alone(
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    few_tickets: Path,
    arguments: list[str],
) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(launched[0].root))
    given = [argument.format(folder=tmp_path, tickets=few_tickets) for argument in arguments]
    result = CliRunner().invoke(main, [*given, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    assert found


def test_what_is_told_of_stop_clean_and_export(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(launched[0].root))

    def told(*arguments: str) -> Any:
        return json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)

    assert told("stop", "demo") == {"study": "demo", "has_ended": True, "message": "nothing of demo runs (2 complete)"}
    whole = told("clean", "demo", "--whole")
    assert (whole["deleted"], whole["size_bytes"]) == (False, sum(item["size_bytes"] for item in whole["items"]))
    assert str(launched[0].study("demo").root) in [item["what"] for item in whole["items"]]
    exported = told("export", "demo", "--to", str(tmp_path / "adapter"), "--force")
    assert exported["folder"] == str(tmp_path / "adapter")
    assert {"trial", "scores", "task"} <= set(exported)
    answered = CliRunner().invoke(main, ["predict", exported["folder"], "a text", "another", "--json"])
    assert [(line["text"], type(line["prediction"])) for line in lines_of(answered.stdout)] == [
        ("a text", str),
        ("another", str),
    ]


@pytest.mark.parametrize("arguments", [["search.trials=many"], ["data=files", "data.path=/nowhere"]])
def test_a_launch_that_is_refused_says_so_twice(home: Home, arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["launch", "study=demo", *arguments, "--json"])
    [line] = lines_of(result.stdout)
    assert result.exit_code == 2
    assert (line["event"], line["outcome"], line["exit_code"]) == ("result", "error", 2)
    assert result.stderr == f"error: {line['error']}\n"


def test_every_command_has_it() -> None:
    def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from commands(command, f"{prefix}{name} ")
            else:
                yield f"{prefix}{name}", command

    without = {name for name, one in commands(main) if not any("--json" in option.opts for option in one.params)}
    assert without == WITHOUT | AMONG_OVERRIDES
