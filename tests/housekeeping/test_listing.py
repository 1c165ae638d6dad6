from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from click.testing import CliRunner
from filelock import FileLock

from sweeper.cli.main import main
from sweeper.housekeeping.listing import State, StudyLine, studies
from sweeper.paths import Home
from sweeper.search.running import LOOK_S, running
from sweeper.search.study import Search
from sweeper.units import GIB, MIB, size_text
from tests.housekeeping.conftest import SIZE, Make, snapshot, write


def listed(home: Home) -> dict[str, StudyLine]:
    return {line.name: line for line in studies(home)}


def test_every_state_is_told_apart(home: Home, make: Make, composed: Any) -> None:
    make("interrupted")
    make("empty", ())
    finished = make("finished", (0.5,), "search.trials=1")
    search = Search(home, composed("study=demo", "study.name=finished"))
    search.remember("baseline", {"accuracy": 0.1})
    search.remember("test", {"trial": 0})
    failed = make("failed")
    failed.write_outcome(0, {"status": "error", "kind": "StoreError", "message": "no space\nleft", "pid": 1})
    crashed = make("crashed")
    crashed.write_outcome(0, {"status": "error", "kind": "OSError", "message": "of whatever", "pid": 1})
    busy = make("busy")
    with FileLock(busy.launcher_lock):
        lines = listed(home)
    assert {name: line.state for name, line in lines.items()} == {
        "interrupted": State.INTERRUPTED,
        "empty": State.EMPTY,
        "finished": State.FINISHED,
        "failed": State.INTERRUPTED,
        "crashed": State.INTERRUPTED,
        "busy": State.RUNNING,
    }
    line = lines["interrupted"]
    assert (line.done, line.total, line.best, line.best_trial, line.metric) == (3, 8, 0.7, 1, "accuracy")
    assert line.model == "tiny"
    assert line.size_bytes > 4 * SIZE
    assert (lines["empty"].done, lines["empty"].best) == (0, None)
    assert lines["failed"].detail == "no space left"
    where = f"message and trace are in {crashed.worker_log(0)}"
    assert lines["crashed"].detail == f"a defect stopped the worker: OSError; {where}"
    assert f"its launcher, process {os.getpid()} on " in (lines["busy"].detail or "")
    assert finished.root.is_dir()


def test_what_is_broken_says_why_and_hides_nothing(home: Home, make: Make) -> None:
    make("whole")
    make("no-yaml").config.write_text("study: [")
    make("no-settings").config.unlink()
    make("other-settings").config.write_text("- a list")
    make("bytes").config.write_bytes(b"\xff\xfe\x00")
    make("marked").deleting.touch()
    folder = make("folder").config
    folder.unlink()
    folder.mkdir()
    make("trials")
    with sqlalchemy.create_engine(home.optuna_url).begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "UPDATE trial_user_attributes SET value_json = '{' WHERE trial_id IN (SELECT trial_id FROM trials JOIN "
                "studies ON trials.study_id = studies.study_id WHERE studies.study_name = 'trials')"
            )
        )
    (home.studies / "refused").mkdir()
    (home.studies / "not a study").mkdir()
    (home.studies / ".gone.deleting").mkdir()
    write(home.studies / "a-file")
    (home.studies / "circle").symlink_to("circle")
    lines = listed(home)
    assert lines["whole"].state is State.INTERRUPTED
    damaged = {name: line.detail or "" for name, line in lines.items() if line.state is State.DAMAGED}
    assert set(damaged) == set(lines) - {"whole", "refused"}
    assert lines["refused"].state is State.EMPTY
    assert "its launch was refused, or ended" in (lines["refused"].detail or "")
    assert set(damaged) == {"no-yaml", "no-settings", "other-settings", "bytes", "marked", "folder", "trials"}
    assert "config.yaml cannot be read: " in damaged["no-yaml"]
    assert "that file is gone" in damaged["no-settings"]
    assert "must be a mapping, but " in damaged["other-settings"]
    assert "cannot be read: " in damaged["bytes"]
    assert "sweeper clean marked --whole --yes" in damaged["marked"]
    assert "its trials cannot be read: " in damaged["trials"]
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 0, result.output
    assert "no-settings: damaged: a study has its settings in" in result.stdout
    assert CliRunner().invoke(main, ["status", "no-yaml"]).exit_code == 2


def test_a_study_without_a_folder_is_listed_and_a_broken_store_is_said(home: Home, make: Make) -> None:
    shutil.rmtree(make("lost").root)
    assert (listed(home)["lost"].state, listed(home)["lost"].done) == (State.DAMAGED, 3)
    home.optuna_file.write_bytes(b"not a database" * 100)
    result = CliRunner().invoke(main, ["list"])
    assert (result.exit_code, "must be Optuna's SQLite store" in result.stderr) == (2, True)


def test_json_is_one_document_and_listing_changes_nothing(home: Home, make: Make) -> None:
    make("demo")
    before = snapshot(home.root)
    result = CliRunner().invoke(main, ["list", "--json"])
    document = json.loads(result.stdout)
    assert document["store"] == str(home.root)
    assert document["studies"][0] == listed(home)["demo"].as_dict()
    assert document["studies"][0]["state"] == "interrupted"
    table = CliRunner().invoke(main, ["list"]).stdout
    assert "3 of 8" in table
    assert "accuracy 0.700" in table
    assert snapshot(home.root) == before


def test_an_empty_store_and_none_are_said(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "no studies yet" in CliRunner().invoke(main, ["list"]).stdout
    assert json.loads(CliRunner().invoke(main, ["list", "--json"]).stdout)["studies"] == []
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "nowhere"))
    said = CliRunner().invoke(main, ["status", "demo"]).stderr
    assert "there is no store at" in said
    result = CliRunner().invoke(main, ["list"])
    assert (result.exit_code, "there is no store" in result.stderr) == (2, True)
    assert not (tmp_path / "nowhere").exists()


def test_list_and_stop_load_neither_torch_nor_mlflow(home: Home, make: Make) -> None:
    make("demo")
    code = (
        "import sys\nfrom sweeper.cli.main import main\n"
        "for arguments in (['list'], ['list', '--json'], ['stop', 'demo']):\n"
        "    try: main(arguments)\n    except SystemExit as end: assert not end.code\n"
        "print([m for m in ('torch', 'mlflow', 'transformers', 'hydra', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_looking_does_not_get_in_a_launchers_way(make: Make) -> None:
    paths = make("demo")
    ended = time.monotonic() + 1
    looking = subprocess.Popen(
        [sys.executable, "-c", "import sys\nfrom sweeper.search.running import is_held\nfrom pathlib import Path\n"
         "print('ready', flush=True)\nwhile True: is_held(Path(sys.argv[1]))", str(paths.launcher_lock)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert looking.stdout is not None
    looking.stdout.readline()
    try:
        while time.monotonic() < ended:
            with FileLock(paths.launcher_lock).acquire(timeout=LOOK_S):
                assert running(paths) is not None
    finally:
        looking.kill()
        looking.communicate()


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (MIB, "1.0 MiB"),
        (1.5 * GIB, "1.5 GiB"),
        (5000 * GIB, "5000.0 GiB"),
    ],
)
def test_sizes_are_in_words(size: float, words: str) -> None:
    assert size_text(size) == words
