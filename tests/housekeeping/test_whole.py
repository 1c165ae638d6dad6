from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from sweeper.cli.main import main
from sweeper.housekeeping import whole
from sweeper.housekeeping.listing import State, names, studies
from sweeper.housekeeping.removal import aside_of
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import study_names, view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from tests.conftest import SHORT
from tests.housekeeping.conftest import Make, snapshot, write
from tests.launch.test_launch import sweeper

Track = Callable[[StudyPaths, int], MlflowTracker]


def clean(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["clean", *arguments, "--whole"])


def everywhere(home: Home, name: str) -> set[str]:
    """Where something of a study is."""
    found = set()
    if name in study_names(home):
        found.add("optuna")
    client = MlflowClient(tracking_uri=home.mlflow_url)
    if client.get_experiment_by_name(name) is not None:
        found.add("mlflow")
    for folder in (home.artifacts / name, home.study(name).root):
        found |= {path.parent.name for path in (folder, aside_of(folder)) if path.exists()}
    return found


ALL = {"optuna", "mlflow", "artifacts", "studies"}


def rows(home: Home) -> dict[str, int]:
    """How many rows the tables of both databases have, those without any left out."""
    counts = {}
    for url in (home.optuna_url, home.mlflow_url):
        with sqlalchemy.create_engine(url).connect() as connection:
            for table in sqlalchemy.inspect(connection).get_table_names():
                counts[table] = connection.scalar(sqlalchemy.text(f"SELECT COUNT(*) FROM {table}"))
    return {table: count for table, count in counts.items() if count}


def test_a_study_goes_everywhere_and_its_neighbour_stays(home: Home, make: Make, tracked: Track) -> None:
    tracked(make("other"), 2)
    before = rows(home), snapshot(home.root)
    paths = make("demo")
    tracked(paths, 3)
    assert everywhere(home, "demo") == ALL
    there = snapshot(home.root)
    dry = clean("demo")
    assert dry.exit_code == 0, dry.output
    for words in ("MLflow's experiment demo (4 runs)", "Optuna's study demo (4 trials)", str(paths.root), "with --yes"):
        assert words in dry.stdout
    assert snapshot(home.root) == there
    done = clean("demo", "--yes")
    assert done.exit_code == 0, done.output
    assert everywhere(home, "demo") == set()
    assert rows(home) == before[0]
    kept = {name for name in before[1] if not name.endswith(".db")}
    assert {name for name in snapshot(home.root) if not name.endswith(".db")} == kept
    assert view(home, "other").counts() == {"COMPLETE": 3, "WAITING": 1}
    assert len(MlflowTracker(home, "other").states()) == 3
    again = clean("demo", "--yes")
    assert (again.exit_code, "unknown study `demo`" in again.stderr) == (2, True)
    tracked(make("demo"), 1)  # the name is free


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("step", range(7))
def test_an_interruption_leaves_a_whole_study_or_one_that_the_same_command_deletes(
    home: Home, make: Make, tracked: Track, few_tickets: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    paths = make("demo")
    tracked(paths, 2)
    places: list[tuple[object, str]] = [
        (whole.StudyPaths, "create"),
        (Path, "touch"),
        (whole.MlflowStore, "delete_experiment"),
        (whole.MlflowStore, "delete_run"),
        (whole.Leases, "forget"),
        (whole.optuna.storages.RDBStorage, "delete_study"),
        (os, "replace"),
    ]
    owner, name = places[step]

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill)
        with pytest.raises(Killed):
            main(["clean", "demo", "--whole", "--yes"])
    if step < 2:
        assert everywhere(home, "demo") == ALL
        assert studies(home)[0].state is State.INTERRUPTED
    else:
        assert "studies" in everywhere(home, "demo")
        line = studies(home)[0]
        assert (line.state, "half deleted" in (line.detail or "")) == (State.DAMAGED, True)
        launch = sweeper(home, "launch", *SHORT, f"data.path={few_tickets}")
        assert launch.returncode == 2
        assert "was being deleted when that was interrupted; `sweeper clean demo --whole --yes`" in launch.stderr
    done = clean("demo", "--yes")
    assert done.exit_code == 0, done.output
    assert everywhere(home, "demo") == set()
    assert names(home) == []


@pytest.mark.parametrize("where", ["studies", "artifacts"])
def test_what_a_kill_left_of_the_folders_goes(home: Home, make: Make, tracked: Track, where: str) -> None:
    paths = make("demo")
    tracked(paths, 1)
    if where == "studies":
        assert clean("demo", "--yes").exit_code == 0
        write(aside_of(paths.root) / "events.jsonl")
    else:
        (home.artifacts / "demo").rename(aside_of(home.artifacts / "demo"))
    result = clean("demo", "--yes")
    assert result.exit_code == 0, result.output
    assert everywhere(home, "demo") == set()
    assert not paths.root.exists()


def test_what_is_not_ours_stops_it_before_anything_goes(home: Home, make: Make, tracked: Track, tmp_path: Path) -> None:
    paths = make("demo")
    tracker = tracked(paths, 1)
    client = MlflowClient(tracking_uri=home.mlflow_url)
    run = client.create_run(tracker._experiment).info.run_id
    outside = write(tmp_path / "outside" / "file").parent

    def refused(words: str) -> None:
        before = snapshot(home.root)
        for arguments in (["demo"], ["demo", "--yes"]):
            result = clean(*arguments)
            assert (result.exit_code, words in result.stderr) == (2, True), result.output
        assert snapshot(home.root) == before
        assert outside.is_dir()

    refused("'demo' has runs there that are not sweeper's")
    client.delete_run(run)
    refused("'demo' has runs there that are not sweeper's")  # one that can be restored
    client._tracking_client.store._hard_delete_run(run)
    for file in (paths.root / "notes.md", paths.trials / "best" / "x", home.artifacts / "demo" / "x"):
        write(file)
        refused("not sweeper's; nothing was deleted")
        file.unlink()
        if file.parent.name == "best":
            file.parent.rmdir()
    moved = outside / "trials"
    paths.trials.rename(moved)
    paths.trials.symlink_to(moved)
    refused(f"{paths.trials} is a link to {moved}")
    paths.trials.unlink()
    moved.rename(paths.trials)
    (paths.root / "a-link").symlink_to(outside)
    refused("not sweeper's")
    (paths.root / "a-link").unlink()
    (paths.trial(0) / "link").symlink_to(outside)  # among a trial's own: the link goes, not what it points to
    assert clean("demo", "--yes").exit_code == 0
    assert everywhere(home, "demo") == set()
    assert (outside / "file").is_file()


def test_a_store_that_cannot_be_written_keeps_the_whole_study(
    home: Home, make: Make, tracked: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(make("demo"), 1)
    may_write = os.access
    for file in (home.optuna_file, home.mlflow_file, home.study("demo").root):
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda path, mode, file=file: path != file and may_write(path, mode))
            result = clean("demo", "--yes")
        assert result.exit_code == 2
        assert f"{file} cannot be written; nothing was deleted" in result.stderr
    assert everywhere(home, "demo") == ALL
    assert studies(home)[0].state is State.INTERRUPTED


def test_a_study_with_damaged_settings_or_no_folder_goes(home: Home, make: Make, tracked: Track) -> None:
    paths = make("demo")
    tracked(paths, 1)
    paths.config.write_text("study: [")
    assert clean("demo", "--yes").exit_code == 0
    assert everywhere(home, "demo") == set()
    shutil.rmtree(make("lost").root)
    assert clean("lost", "--yes").exit_code == 0
    assert everywhere(home, "lost") == set()


def test_what_a_launch_leaves_is_all_known(home: Home, few_tickets: Path) -> None:
    """A file that is new in a study's folder must be named in `StudyPaths.known`, or the study could not be deleted."""
    finish = "on_finish='echo $SWEEPER_OUTCOME; exit 7'"
    done = sweeper(home, "launch", *SHORT, f"data.path={few_tickets}", "search.trials=1", finish)
    assert done.returncode == 0, done.stderr
    assert studies(home)[0].state is State.FINISHED
    assert home.study("demo").on_finish_log.read_text().splitlines()[1] == "finished"
    assert "on_finish: ended with code 7" in done.stderr
    # A kill at any moment: the same command deletes what is left.
    command = [sys.executable, "-m", "sweeper", "clean", "demo", "--whole", "--yes"]
    process = subprocess.Popen(
        command, env={**os.environ, "SWEEPER_HOME": str(home.root)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "MLflow's experiment demo (3 runs)" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    last = clean("demo", "--yes")
    assert last.exit_code == 0 or "unknown study `demo`" in last.stderr
    assert everywhere(home, "demo") == set()
