from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from sweeper.cli.main import main
from sweeper.paths import Home


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_launcher_does_not_load_what_trains() -> None:
    """What it looks at needs seconds, and these would take as long again."""
    code = (
        "import sys, sweeper.launching.launcher, sweeper.preflight.cost, sweeper.preflight.data.report\n"
        "import sweeper.models.source, sweeper.retention.watch\n"
        "print([m for m in ('bitsandbytes', 'peft', 'mlflow', 'sklearn', 'sweeper.engine.pack') if m in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"


def test_help_loads_nothing_heavy_and_names_every_command() -> None:
    code = (
        "import sys\nfrom sweeper.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'mlflow', 'optuna', 'hydra', 'rich') if m in sys.modules])"
    )
    out = python(code).stdout
    assert out.strip().endswith("[]")
    for command in main.commands:
        assert f"  {command} " in out


def test_launch_is_a_hydra_application(home: Home) -> None:
    result = CliRunner().invoke(main, ["launch", "study=demo", "--cfg", "job"])
    assert result.exit_code == 0
    assert "name: demo" in result.output
    result = CliRunner().invoke(main, ["launch", "study=demo", "--info", "searchpath"])
    assert "study://" in result.output
    result = CliRunner().invoke(main, ["launch", "--help"])
    assert (
        "study: banking77, code-comments, demo, docqa, llama-3.1-8b-tickets-24gb, qa-techdoc, rank-story, tickets"
        in result.output
    )


# Each is refused before a model is loaded: in a second, with words, without a traceback.
BAD_INPUT = [
    (["data=files", "data.path=/nowhere"], r"there is no /nowhere"),
    (["data=files", "data.path={files}", "data.columns.text=body"], r"unknown column `body`.*Known: label, text"),
    (["data=files", "data.path={files}", "data.splits.test=missing"], r"`missing` is missing in"),
    (["search.space.rank=[0]"], r"search.space.rank: .*greater than or equal to 1, but got 0"),
    (["train.learning_rate=-1"], r"train.learning_rate: .*but got -1"),
    (["search.trials=many"], r"search.trials: .*'many'"),
    (["trains.seed=1"], r"unknown key `trains.seed`"),
    (["store.home=/proc/store"], r"must be a folder that can be written, but /proc/store is not"),
    (["study=/nowhere/folder"], r"a study folder has a config.yaml"),
]


@pytest.mark.parametrize(("arguments", "expected"), BAD_INPUT, ids=[" ".join(case[0]) for case in BAD_INPUT])
def test_bad_input_is_refused_in_words(home: Home, ticket_files: Path, arguments: list[str], expected: str) -> None:
    given = [argument.format(files=ticket_files) for argument in arguments]
    started = time.monotonic()
    result = CliRunner().invoke(main, ["launch", "study=demo", *given])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert re.search(expected, result.stderr, re.DOTALL), result.stderr
    assert "Traceback" not in result.output
    assert time.monotonic() - started < 30
    assert not (home.root / "mlflow.db").exists()  # no worker was started


def test_a_plan_is_kept_where_it_can_be_written(home: Home) -> None:
    result = CliRunner().invoke(main, ["plan", "study=demo", "store.home=/proc/store"])
    assert result.exit_code == 2
    assert "must be a folder that can be written, but /proc/store is not" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status", "demo"], "has asked for a trial yet"),
        (["stop", "demo"], "unknown study `demo`"),
        (["clean", "demo"], "unknown study `demo`"),
        (["best", "demo"], "has asked for a trial yet"),
        (["errors", "demo"], "has asked for a trial yet"),
        (["errors", "demo", "--base", "--trial", "0"], "--base and --trial exclude each other"),
        (["rerun", "demo", "--trial", "0"], "has asked for a trial yet"),
        (["export", "demo", "--to", "x"], "has asked for a trial yet"),
        (["report", "demo"], "has asked for a trial yet"),
        (["price-inference", "demo"], "has asked for a trial yet"),
        (["pictures", "demo"], "has asked for a trial yet"),
        (["status", "../demo"], "a study name has"),
        (["ui"], "there are no runs"),
        (["predict", "/nowhere", "text"], "an exported folder has a readable sweeper.json"),
    ],
)
def test_nothing_to_show_is_said(home: Home, arguments: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert expected in result.stderr


def test_broken_stores_and_exports_are_said(home: Home, tmp_path: Path) -> None:
    home.optuna_file.write_bytes(b"not a database" * 100)
    result = CliRunner().invoke(main, ["status", "demo"])
    assert (result.exit_code, "must be Optuna's SQLite store" in result.stderr) == (2, True)
    (tmp_path / "sweeper.json").write_text("{}")
    result = CliRunner().invoke(main, ["predict", str(tmp_path), "text"])
    assert (result.exit_code, "is not a whole export (sweeper.json lacks study" in result.stderr) == (2, True)
    assert CliRunner().invoke(main, ["ui", "--port", "70000"]).exit_code == 2


def test_loading_the_engine_prints_nothing() -> None:
    done = python("import sweeper.worker.rerun, sweeper.worker.session")
    assert (done.stdout, done.stderr) == ("", "")


def test_doctor_finds_this_machine_fit(home: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", "doctor"],
        env={**os.environ, "SWEEPER_HOME": str(home.root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   4-bit training: on c" in done.stdout
    assert "torch 2." in done.stdout


def test_doctor_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_HOME", "/proc/store")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "FAIL store" in result.output
    assert "set SWEEPER_HOME to a folder that can be written" in result.output
