from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from sweeper.cli.follow import ending
from sweeper.cli.main import main
from sweeper.events import EventReader
from sweeper.paths import Home
from sweeper.search.running import running
from tests.housekeeping.conftest import Make, make  # noqa: F401

# What a launcher and its worker hold and write of a study, in one process that a test drives by its standard input.
STAND_IN = """
import json, os, sys
from filelock import FileLock
from sweeper.events import EventLog
from sweeper.paths import Home
from sweeper.search.running import note

paths = Home.from_environment().study("demo")
with FileLock(paths.launcher_lock), FileLock(paths.worker_lock(0)):
    note(paths.holder)
    note(paths.worker_holder(0))
    events = EventLog(paths.events)
    print("runs", flush=True)
    for line in sys.stdin:
        event = json.loads(line)
        if event["event"] == "outcome":
            paths.write_outcome(0, {"pid": os.getpid(), "trace": None, **event["outcome"]})
            break
        events.write(event.pop("event"), **event)
"""
EVENTS = [
    {"event": "launched", "workers": 1},
    {"event": "loading", "model": "tiny"},
    {"event": "trial_started", "number": 3, "name": "t03 r8", "step": 0, "steps": 20, "is_informed": False},
]
ENDED = {
    "event": "trial_ended",
    "number": 3,
    "name": "t03 r8",
    "state": "COMPLETE",
    "reason": None,
    "same_as": None,
    "is_rejected": False,
    "violates": [],
    "value": 0.8,
}


def write(process: subprocess.Popen[str], event: dict[str, object]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(event) + "\n")
    process.stdin.flush()


@contextmanager
def run_elsewhere() -> Iterator[subprocess.Popen[str]]:
    """A study that runs, and has begun a trial."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", STAND_IN], text=True, **pipes)  # type: ignore[call-overload]
    try:
        assert process.stdout.readline() == "runs\n"
        for event in EVENTS:
            write(process, event)
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def follow(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "sweeper", "status", "demo", "--follow", *options]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], part: str) -> str:
    assert process.stdout is not None
    text = ""
    while part not in text:
        line = process.stdout.readline()
        assert line, f"it ended before it said {part!r}: {text}"
        text += line
    return text


def test_a_study_that_runs_elsewhere_is_shown_until_it_ends(make: Make) -> None:  # noqa: F811
    paths = make("demo")
    paths.events.write_text(
        '{"event": "launched", "time": 1.0, "worker": null, "workers": 3}\n'
        '{"event": "loading", "time": 1.0, "worker": 0, "model": "of an earlier session"}\n'
    )
    paths.write_outcome(0, {"pid": 1, "status": "stopped"})
    os.utime(paths.outcome(0), (1.0, 1.0))
    with run_elsewhere() as study, follow() as watcher:
        text = read_until(watcher, "t03 r8: started")  # it began before whoever looks
        assert f"demo is run by its launcher, process {study.pid} on " in text
        assert "Ctrl-C leaves it alone" in text
        assert "earlier session" not in text
        write(study, ENDED)
        # 3 of earlier sessions had ended; their best was 0.7.
        assert read_until(watcher, "ended\n").endswith("t03 r8: complete at accuracy 0.800; 4 of 8 ended\n")
        write(study, {"event": "outcome", "outcome": {"status": "finished", "message": None}})
        out, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, err) == (0, "")
    assert "demo has come to its end" in out
    assert "Best: trial 1" in out  # as the storage has it


def test_a_script_gets_events_alone_and_a_kill_is_said(make: Make) -> None:  # noqa: F811
    paths = make("demo")
    with run_elsewhere() as study, follow("--json") as watcher:
        text = read_until(watcher, "trial_started")
        study.kill()
        out, err = watcher.communicate(timeout=60)
    assert watcher.returncode == 1
    assert [json.loads(line)["event"] for line in (text + out).splitlines()] == [
        *("launched", "loading", "trial_started")
    ]
    assert f"its workers said nothing of their end (see {paths.logs}); the same launch command goes on" in err


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ({"status": "finished"}, "demo has come to its end"),
        ({"status": "stopped"}, "demo was stopped; the same launch command goes on"),
        ({"status": "error", "kind": "OutOfRoomError", "message": "no room"}, "demo ended with an error: no room; the"),
        (
            {"status": "error", "kind": "KeyError", "message": "'a row'"},
            "KeyError; message and trace are in {log}; the same",
        ),
    ],
)
def test_how_it_ended_is_said(home: Home, outcome: dict[str, str], words: str) -> None:
    paths = home.study("demo")
    paths.create()
    paths.write_outcome(0, {"pid": 1, **outcome})
    is_at_end, said = ending(paths, paths.outcome(0).stat().st_mtime)
    assert (is_at_end, words.format(log=paths.worker_log(0)) in said) == (outcome["status"] == "finished", True)
    assert "a row" not in said
    assert "nothing of their end" in ending(paths, time.time() + 5)[1]  # it is an earlier worker's


def test_ctrl_c_leaves_the_study_alone(make: Make) -> None:  # noqa: F811
    paths = make("demo")
    with run_elsewhere() as study, follow() as watcher:
        read_until(watcher, "t03 r8: started")
        before = {file.name: file.stat().st_mtime_ns for file in paths.root.iterdir()}
        watcher.send_signal(signal.SIGINT)
        out, _ = watcher.communicate(timeout=60)
        assert (watcher.returncode, study.poll()) == (130, None)
        assert out.endswith("demo is left alone, and goes on\n")
        assert running(paths) is not None
        assert {file.name: file.stat().st_mtime_ns for file in paths.root.iterdir()} == before


def test_a_study_that_does_not_run_is_shown_as_it_stands(make: Make) -> None:  # noqa: F811
    make("demo")
    result = CliRunner().invoke(main, ["status", "demo", "--follow"])
    assert result.exit_code == 1  # it is not at its end
    assert "nothing of demo runs; this is how it stands" in result.output
    assert "Best: trial 1" in result.output
    result = CliRunner().invoke(main, ["status", "other", "--follow"])
    assert (result.exit_code, "unknown study `other`" in result.stderr) == (2, True)


def test_reading_begins_with_the_session_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert list(EventReader.of_session(file, "loading", 0.0).new()) == []
    first, second = ({"event": "loading", "time": time_s} for time_s in (1.0, 5.0))
    note = {"event": "note", "time": 6.0, "message": 'of {"event": "loading", "time": 9}'}
    file.write_text("".join(json.dumps(event) + "\n" for event in (first, second, note)))
    assert list(EventReader.of_session(file, "loading", 5.0).new()) == [second, note]
    late = EventReader.of_session(file, "loading", 7.0)
    assert list(late.new()) == []
    with file.open("a") as opened:
        opened.write(json.dumps(first) + "\n")
    assert list(late.new()) == [first]
