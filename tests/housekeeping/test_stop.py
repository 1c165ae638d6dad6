from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from sweeper.cli.main import main
from sweeper.launching.question import INTERRUPTED
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import view
from tests.conftest import SHORT
from tests.housekeeping import stand_in
from tests.housekeeping.conftest import Make
from tests.launch.test_launch import has_event, start

ROOT = Path(__file__).parents[2]


@contextmanager
def held(tmp_path: Path, role: str, how: str, name: str = "demo") -> Iterator[subprocess.Popen[str]]:
    """A process that holds a study and looks like a launcher, or like a worker, until the block ends."""
    file = tmp_path / "bin" / "sweeper"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"import runpy, sys\nrunpy.run_path({str(stand_in.__file__)!r}, run_name='__main__')\n")
    process = subprocess.Popen(
        [sys.executable, str(file), "launch", role, name, how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["stop", *arguments])


def test_nothing_that_runs_is_said(make: Make, home: Home) -> None:
    make("demo")
    result = stop("demo")
    assert (result.exit_code, result.stdout) == (0, "nothing of demo runs (3 complete, 1 waiting)\n")
    result = stop("dem")
    assert (result.exit_code, "did you mean `demo`?" in result.stderr) == (2, True)
    assert stop("../demo").exit_code == 2
    home.study("fresh").create()
    assert stop("fresh").stdout == "nothing of fresh runs (no trials yet)\n"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("stopped", "demo has stopped; the same launch command goes on (3 complete, 1 waiting)"),
        ("finished", "demo finished before it could stop"),
        ("error", "demo ended with an error: no space left; the same launch command goes on"),
        ("defect", "demo ended with an error: a defect stopped the worker: KeyError; message and trace are in"),
        ("silent", "demo has stopped, and its workers said nothing more"),
    ],
)
def test_what_became_of_it_is_said(make: Make, tmp_path: Path, how: str, words: str) -> None:
    paths = make("demo")
    paths.write_outcome(0, {"pid": 1, "status": "finished"})  # of an earlier worker
    with held(tmp_path, "launcher", how) as process:
        result = stop("demo")
        assert process.wait(10) == 0
    assert result.exit_code == 0, result.output
    assert f"asked the launcher of demo (process {process.pid} on " in result.stdout
    assert words in result.stdout
    assert ("no space left" in result.stdout) == (how == "error")  # a defect's may quote a row


def test_one_that_does_not_end_is_not_killed(make: Make, tmp_path: Path) -> None:
    make("demo")
    with held(tmp_path, "launcher", "deaf") as process:
        result = stop("demo", "--timeout", "0.5")
        assert process.poll() is None
    assert result.exit_code == 1
    assert "demo still runs after 0.5 s" in result.stdout
    assert "Nothing was killed" in result.stdout


def edit(file: Path, **changes: Any) -> None:
    """Changes what a note says."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def refused(paths: StudyPaths, words: str) -> None:
    """Nothing is stopped, and the reason is said."""
    result = stop(paths.name)
    assert result.exit_code == 2, result.output
    assert re.search(words, result.stderr), result.stderr
    assert "nothing was stopped" in result.stderr


def test_only_what_is_certainly_the_studys_is_stopped(make: Make, tmp_path: Path) -> None:
    paths = make("demo")
    other = sleeper()
    try:
        started_s = psutil.Process(other.pid).create_time()
        with held(tmp_path, "launcher", "stopped") as process:
            own = paths.holder.read_text()
            # The noted number is another process's by now, which began at another time.
            edit(paths.holder, pid=other.pid, started_s=started_s - 60)
            refused(paths, "held by a process that is not the launcher or worker that noted itself last")
            # Even where the time is the same, it is no launcher.
            edit(paths.holder, pid=other.pid, started_s=started_s)
            refused(paths, rf"notes process {other.pid} as its launcher, but that is none of sweeper's now \(.*python")
            edit(paths.holder, host="gpu-box")
            refused(paths, "'demo' runs on gpu-box .*Run `sweeper stop demo` there")
            for text in ("{", "[]", "{}", '{"pid": 5, "host": "here", "since": "now"}'):
                paths.holder.write_text(text)
                refused(paths, "held by a process that is not the launcher")
            paths.holder.unlink()
            refused(paths, "held by a process that is not the launcher")
            assert process.poll() is None
            paths.holder.write_text(own)
        # A note that was left behind by a launcher that was killed says nothing: the lock is free.
        edit(paths.holder, pid=other.pid, started_s=started_s)
        assert "nothing of demo runs" in stop("demo").stdout
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_rerun_is_not_stopped(make: Make) -> None:
    paths = make("demo")
    with FileLock(paths.work_lock):
        refused(paths, "`sweeper rerun`, perhaps")


def test_a_worker_without_its_launcher_must_be_one_of_that_study(make: Make, tmp_path: Path) -> None:
    paths = make("demo")
    with held(tmp_path, "worker", "stopped") as process:  # its command line is a launcher's
        refused(paths, f"notes process {process.pid} as its worker, but that is none of sweeper's now")
        assert process.poll() is None


@pytest.mark.parametrize("is_asked_twice", [False, True])
def test_a_real_study_stops_resumably(home: Home, few_tickets: Path, is_asked_twice: bool) -> None:
    launch = start(home, "launch", *SHORT, f"data.path={few_tickets}", "train.examples=20000")
    try:
        deadline = time.monotonic() + 120
        while not has_event(home, '"event": "tick"')():
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.05)
        assert "demo" in CliRunner().invoke(main, ["list"]).stdout
        if is_asked_twice:  # a second Ctrl-C would end it at once
            launch.send_signal(signal.SIGTERM)
        result = stop("demo")
        _, err = launch.communicate(timeout=60)
    finally:
        launch.kill()
    assert result.exit_code == 0, result.output
    assert launch.returncode == INTERRUPTED, err
    assert "demo has stopped; the same launch command goes on (2 waiting)" in result.stdout
    assert view(home, "demo").counts() == {"WAITING": 2}
    assert home.study("demo").checkpoint(0).is_file()


def test_a_worker_whose_launcher_was_killed_is_waited_for(home: Home, few_tickets: Path) -> None:
    launch = start(home, "launch", *SHORT, f"data.path={few_tickets}", "train.examples=20000")
    deadline = time.monotonic() + 120
    while not has_event(home, '"event": "tick"')():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)
    worker = int(subprocess.run(["pgrep", "-P", str(launch.pid)], capture_output=True, text=True).stdout.split()[0])
    os.kill(worker, signal.SIGSTOP)
    launch.kill()
    launch.communicate(timeout=60)
    result = stop("demo", "--timeout", "0.5")
    assert (result.exit_code, "asked the worker of demo" in result.stdout) == (1, True)
    os.kill(worker, signal.SIGCONT)
    result = stop("demo")
    assert result.exit_code == 0, result.output
    assert view(home, "demo").counts() == {"WAITING": 2}
