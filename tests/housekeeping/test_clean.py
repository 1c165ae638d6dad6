from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from mlflow import MlflowClient

from sweeper.cli.main import main
from sweeper.errors import StoreError
from sweeper.housekeeping import removal
from sweeper.learning.request import side_number
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from tests.housekeeping.conftest import Make, snapshot, write

Track = Callable[[StudyPaths, int], MlflowTracker]


def clean(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["clean", *arguments])


def went(home: Home, *arguments: str) -> set[str]:
    """What `clean --yes` deletes, after the dry run has said the same and changed nothing."""
    before = snapshot(home.root)
    dry = clean(*arguments)
    assert dry.exit_code == 0, dry.output
    assert snapshot(home.root) == before
    assert not re.search("^deleted", dry.stdout, re.MULTILINE)
    done = clean(*arguments, "--yes")
    assert done.exit_code == 0, done.output
    pattern = re.compile(r"^(?:would delete|deleted) +(.*)$", re.MULTILINE)
    said = [pattern.findall(text) for text in (dry.stdout, done.stdout)]
    assert said[0] == said[1]
    assert "there is nothing to delete" in clean(*arguments, "--yes").stdout
    gone = set(before) - set(snapshot(home.root))
    return {name for name in gone if not name.endswith(".db")}


def test_adapters_beyond_the_best_go_here_and_in_mlflow(home: Home, make: Make, tracked: Track) -> None:
    paths = make("demo")
    tracker = tracked(paths, 3)
    write(paths.adapter(17) / "adapter_model.safetensors")  # of no trial
    write(paths.adapter(3) / "adapter_model.safetensors")  # of the one that waits
    gone = went(home, "demo", "--adapters")
    copy = (
        tracker._folder(next(key for key in tracker._runs if key.number == 0)) / "adapter" / "adapter_model.safetensors"
    )
    assert gone == {
        "studies/demo/trials/0000/adapter/adapter_model.safetensors",
        "studies/demo/trials/0017/adapter/adapter_model.safetensors",
        str(copy.relative_to(home.root)),
    }
    assert view(home, "demo").attributes["adapters"] == [1, 2]


def test_the_last_copy_of_a_best_adapter_stays(home: Home, make: Make, tracked: Track) -> None:
    paths = make("demo")
    tracked(paths, 3)
    shutil.rmtree(paths.adapter(1))  # the best one's
    gone = went(home, "demo", "--adapters")
    assert gone == set()  # of those on the disk two are the best two, and MLflow has what was lost


def test_checkpoints_of_ended_trials_go_and_the_others_stay(home: Home, make: Make) -> None:
    paths = make("demo")
    for number in (0, 3, 17):  # ended, waiting, of no trial
        write(paths.checkpoint(number))
    result = clean("--checkpoints")
    assert f"{paths.checkpoint(0)} (its trial has ended)" in result.stdout
    assert "1000 B" in result.stdout
    assert "in all 2, 2.0 KiB: nothing was deleted; the same command with --yes deletes" in result.stdout
    assert went(home, "--checkpoints") == {
        "studies/demo/trials/0000/checkpoint.safetensors",
        "studies/demo/trials/0017/checkpoint.safetensors",
    }


def test_checkpoints_of_side_runs_that_nobody_goes_on_with_go(home: Home, make: Make) -> None:
    paths = make("demo", (0.5, 0.7), "search.trials=2", "confirmation.top=0")
    given_up = paths.side_checkpoint("confirmation", 701)
    ended = paths.side_checkpoint("confirmation", 702)
    winner, other = (paths.side_checkpoint("learning-curve", side_number(trial, 0, 1, 2)) for trial in (1, 0))
    files = [given_up, ended, winner, other, paths.side / "mine" / "checkpoint.safetensors"]
    for file in files:
        write(file)
    paths.side_result("confirmation", 702).write_text("{}")

    def relative(*found: Path) -> set[str]:
        return {str(file.relative_to(home.root)) for file in found}

    assert went(home, "--checkpoints") == relative(ended)  # the winner is not tested yet: the study goes on
    study = optuna.load_study(study_name="demo", storage=home.optuna_url)
    study.set_user_attr("baseline", {"accuracy": 0.4})
    study.set_user_attr("test", {"trial": 1})
    assert went(home, "--checkpoints") == relative(given_up, other)


def test_half_written_files_go_and_what_is_not_ours_stays(home: Home, make: Make) -> None:
    paths = make("demo")
    ours = [
        paths.root / ".config.yaml.ab12_x9z",
        paths.root / ".launcher.json.ab12_x9z",
        paths.root / ".learning_curve.json.ab12_x9z",
        paths.pictures / ".memory.png.ab12_x9z",
        paths.side / "confirmation-0701" / ".result.json.ab12_x9z",
        paths.trial(0) / ".checkpoint.safetensors.tmp" / "part",
        paths.trial(1) / ".adapter.tmp" / "adapter_model.safetensors",
        paths.trial(1) / ".adapter.deleting" / "adapter_model.safetensors",
        home.studies / ".gone.deleting" / "events.jsonl",
        home.artifacts / ".gone.deleting" / "x",
        paths.workers / ".0.json.ab12_x9z",
        paths.workers / ".12.outcome.json.ab12_x9z",
        paths.workers / ".jobs.json.ab12_x9z",
        home.memory / ".formula-0a1b.json.ab12_x9z",
        home.pace / ".tiny_nf4_float32_cpu_classification_2_threads.json.ab12_x9z",
        home.models / ".smollm2.99999999" / "model.safetensors",
        home.models / ".smollm2-135m-nf4-0a1b2c3d4e5f.99999999" / "model.safetensors",
    ]
    stay = [
        paths.root / ".config.yaml.swp",
        paths.root / ".notes.md.ab12_x9z",
        paths.root / "notes.md",
        paths.trials / ".adapter.tmp" / "x",  # not where sweeper writes one
        paths.trials / "best" / ".adapter.tmp" / "x",
        home.studies / ".git" / "config",
        home.models / f".busy.{os.getpid()}" / "model.safetensors",
        home.models / ".new.99999998" / "model.safetensors",
        home.models / "writing.lock",
        home.memory / ".formula-0a1c.json.ab12_x9z",
        home.pace / "tiny_nf4_float32_cpu_classification_2_threads.json",
        home.pace / ".tiny_nf4_float32_cuda_classification.json.ab12_x9z",
        paths.workers / ".mine.json.ab12_x9z",
        home.root / ".config.yaml.ab12_x9z",
    ]
    old = time.time() - 7200
    for file in [*ours, *stay]:
        write(file)
    for file in [*ours, stay[6]]:  # the one that another process is at is old too
        for path in (file, file.parent):
            if path not in (home.root, home.memory, home.pace):
                os.utime(path, (old, old))
    expected = {str(file.relative_to(home.root)) for file in ours}
    assert went(home, "--temporary") == expected
    assert all(file.is_file() for file in stay)


def test_caches_go_only_when_asked_for(home: Home, make: Make) -> None:
    paths = make("demo")
    kept = [
        home.memory / "calibration-0a1b.json",
        home.memory / "runtime.json",
        home.models / "someones" / "notes.md",  # no model
    ]
    caches = [
        home.models / "smollm2" / "config.json",
        home.models / "smollm2-nf4-0a1b" / "config.json",
        home.models / "smollm2-nf4-0a1b" / "quantised.json",
        home.memory / "formula-0a1b.json",
    ]
    for file in [*kept, *caches]:
        write(file)
    assert "models" not in clean("--checkpoints", "--temporary", "--deleted").stdout
    with FileLock(paths.worker_lock(0)):
        result = clean("--caches", "--yes")
    assert "caches are left alone while demo runs" in result.stdout
    assert "quantised again when it is used" in clean("--caches").stdout
    assert went(home, "--caches") == {str(file.relative_to(home.root)) for file in caches}
    assert clean("demo", "--caches").exit_code == 2


def test_what_was_deleted_in_mlflow_goes_for_good(home: Home, make: Make, tracked: Track) -> None:
    paths, other = make("demo"), make("other")
    tracker = tracked(paths, 3)
    binned = tracked(other, 1)
    client = MlflowClient(tracking_uri=home.mlflow_url)
    runs = {key.number: run_id for key, run_id in tracker._runs.items()}
    client.delete_run(runs[0])
    client.delete_experiment(binned._experiment)
    write(home.artifacts / "demo" / ("0" * 32) / "artifacts" / "config.yaml")  # of a run that MLflow never had
    write(home.artifacts / "vanished" / ("1" * 32) / "artifacts" / "config.yaml")
    write(home.artifacts / "photos" / "cat.jpg")
    # Someone's own experiment, and one where someone has a run beside ours.
    own = client.create_experiment("own")
    client.create_run(own)
    mixed = client.create_experiment("mixed", artifact_location="mlflow-artifacts:/mixed")
    client.create_run(mixed)
    client.delete_experiment(mixed)
    gone = went(home, "--deleted")
    assert {re.sub("[0-9a-f]{32}", "RUN", name) for name in gone} == {
        "artifacts/demo/RUN/artifacts/adapter/adapter_model.safetensors",
        "artifacts/demo/RUN/artifacts/config.yaml",
        "artifacts/other/RUN/artifacts/adapter/adapter_model.safetensors",
        "artifacts/vanished/RUN/artifacts/config.yaml",
    }
    assert (home.artifacts / "photos" / "cat.jpg").is_file()
    left = {experiment.name for experiment in client.search_experiments(view_type=3)}
    assert left == {"Default", "demo", "own", "mixed"}
    assert {key.number for key in MlflowTracker(home, "demo").states()} == {None, 1, 2}
    tracked(other, 1)  # its name is free again
    # A trial whose run is gone may still lose its place among the best.
    MlflowTracker(home, "demo").drop_files(next(key for key in tracker._runs if key.number == 0), "adapter")


def test_runs_of_a_study_that_is_gone_go(home: Home, make: Make, tracked: Track) -> None:
    paths = make("demo")
    tracked(paths, 2)
    optuna.delete_study(study_name="demo", storage=home.optuna_url)
    assert "artifacts/demo" not in clean("--deleted").stdout  # its folder is there
    shutil.rmtree(paths.root)
    gone = went(home, "--deleted")
    assert len(gone) == 2
    assert not (home.artifacts / "demo").exists()


def test_a_study_that_runs_is_left_alone(home: Home, make: Make) -> None:
    paths = make("demo")
    write(paths.checkpoint(0))
    write(make("idle").checkpoint(0))
    for lock in (paths.launcher_lock, paths.worker_lock(0), paths.work_lock):
        with FileLock(lock):
            for arguments in (["demo"], ["demo", "--yes"], ["demo", "--whole"], ["demo", "--whole", "--yes"]):
                result = clean(*arguments)
                assert result.exit_code == 2
                assert "'demo' is held by " in result.stderr
                assert "sweeper stop demo" in result.stderr
            result = clean("--checkpoints", "--yes")
            assert result.exit_code == 0
            assert "note: demo runs, and is left alone" in result.stdout
    assert paths.checkpoint(0).is_file()
    assert not home.study("idle").checkpoint(0).exists()


def test_links_are_not_followed(home: Home, make: Make, tmp_path: Path, tracked: Track) -> None:
    paths = make("demo")
    tracked(paths, 3)
    outside = tmp_path / "outside"
    kept = [write(outside / name / "checkpoint.safetensors") for name in ("trial", "study/trials/0000", "in")]
    kept += [write(outside / "adapter" / "adapter_model.safetensors")]
    shutil.rmtree(paths.adapter(0))
    paths.adapter(0).symlink_to(outside / "adapter")
    (paths.trials / "0017").symlink_to(outside / "trial")
    (home.studies / "linked").symlink_to(outside / "study")
    shutil.move(home.artifacts, outside / "artifacts")
    home.artifacts.symlink_to(outside / "artifacts")
    write(paths.trial(1) / ".adapter.tmp" / "file")
    (paths.trial(1) / ".adapter.tmp" / "link").symlink_to(outside / "in")
    before = snapshot(outside)
    result = clean("--yes")
    assert result.exit_code == 0, result.output
    assert f"{paths.adapter(0)} is a link, and what lies behind it is left alone" in result.stdout
    assert f"{home.artifacts} is a link" in result.stdout
    assert not (paths.trial(1) / ".adapter.tmp").exists()
    assert snapshot(outside) == before
    assert all(file.is_file() for file in kept)


@pytest.mark.parametrize("broken", ["study: [", "- list", None])
def test_without_its_settings_a_study_keeps_its_adapters(home: Home, make: Make, broken: str | None) -> None:
    paths = make("demo")
    write(paths.checkpoint(0))
    if broken is None:
        paths.config.unlink()
    else:
        paths.config.write_text(broken)
    result = clean("demo", "--yes")
    assert result.exit_code == 0, result.output
    assert "note: the adapters of demo are left alone, for want of its settings: " in result.stdout
    assert paths.adapter(0).is_dir()
    assert not paths.checkpoint(0).exists()


def test_without_its_trials_a_study_is_left_alone(home: Home, make: Make) -> None:
    paths = make("demo")
    write(paths.checkpoint(0))
    home.optuna_file.rename(home.root / "elsewhere.db")
    assert went(home) == set()
    home.optuna_file.write_bytes(b"not a database" * 100)
    result = clean("--yes")
    assert (result.exit_code, "must be Optuna's SQLite store" in result.stderr) == (2, True)
    assert paths.checkpoint(0).is_file()


def test_bad_input_is_refused(home: Home, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make("demo")
    for arguments, words in (
        (["dem", "--yes"], "did you mean `demo`?"),
        (["demo", "dem", "--whole", "--yes"], "did you mean `demo`?"),
        (["../demo"], "a study name has 1 to 64"),
        (["--whole"], "--whole needs the names of studies"),
        (["demo", "--whole", "--adapters"], "no other option than --yes"),
    ):
        result = clean(*arguments)
        assert (result.exit_code, words in result.stderr) == (2, True), result.output
    assert home.study("demo").config.is_file()
    home.mlflow_file.write_bytes(b"not a database" * 100)
    result = clean("--yes")
    assert (result.exit_code, "must be MLflow's SQLite store" in result.stderr) == (2, True)
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "nowhere"))
    result = clean("--yes")
    assert (result.exit_code, "there is no store" in result.stderr) == (2, True)


def test_a_store_that_cannot_be_written_is_said(home: Home, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make("demo")
    write(paths.checkpoint(0))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        patch.setattr("os.replace", refuse)
        for arguments in (["--checkpoints", "--yes"], ["--adapters", "--yes"]):
            result = clean(*arguments)
            assert result.exit_code == 2
            assert "must be deletable, but it is not: Read-only file system" in result.stderr
    with monkeypatch.context() as patch:
        patch.setattr("sweeper.search.running.FileLock.acquire", refuse)
        for arguments in (["--checkpoints", "--yes"], ["demo", "--whole", "--yes"]):
            result = clean(*arguments)
            assert result.exit_code == 2
            assert "must be a folder that can be written, but it is not: Read-only file system" in result.stderr
    assert paths.checkpoint(0).is_file()
    assert not paths.deleting.exists()


def test_a_folder_that_is_half_deleted_is_not_taken_for_a_whole_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(home.models / "demo" / "config.json").parent

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(removal.shutil, "rmtree", fail)
        with pytest.raises(StoreError, match="Input/output error"):
            removal.remove(home, folder)
    assert not folder.exists()
    assert "half deleted" in clean("--temporary").stdout
    write(folder / "config.json")
    removal.remove(home, folder)  # over what is left from before
    assert list(home.models.iterdir()) == []
    removal.remove(home, folder)  # gone already


def test_help_says_what_is_done() -> None:
    text = subprocess.run([sys.executable, "-m", "sweeper", "clean", "--help"], capture_output=True, text=True).stdout
    for option in ("--adapters", "--checkpoints", "--temporary", "--deleted", "--caches", "--whole", "--yes"):
        assert option in text
    assert "only says what would go, until --yes" in text
