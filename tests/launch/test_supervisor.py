"""How a supervisor deals with workers that end, die or hang, and with a terminal that goes; no model is loaded."""

from __future__ import annotations

import errno
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cluster.local import LocalWorker
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, DataError, DiskFullError, StoreError, WorkerError
from sweeper.events import EventLog, EventReader
from sweeper.launching.question import INTERRUPTED
from sweeper.launching.screen import Output
from sweeper.launching.supervisor import Supervisor
from sweeper.paths import Home, StudyPaths
from tests.launch import stand_in
from tests.launch.stand_in import StandIns

ENDS = 'end("finished")'
LEAVES = 'end("left")'
DIES = 'print("the card fell off the bus", flush=True); os.kill(os.getpid(), signal.SIGKILL)'
IS_WRONG = 'end("error", kind="DataError", message="row 7 has no label", trace=None)'
HAS_A_DEFECT = 'end("error", kind="KeyError", message="a row", trace="...")'
TELLS = (
    'events.write("trial_ended", number=0, name="t00", state="COMPLETE", reason=None, same_as=None, is_rejected=False,'
    "violates=[], value=0.5); time.sleep(1);"
)
STOPS = (
    'signal.signal(signal.SIGTERM, lambda *_: end("stopped")); events.write("note", message="ready"); time.sleep(60)'
)
IS_DEAF = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); events.write("note", message="ready"); time.sleep(60)'


@pytest.fixture
def paths(home: Home) -> StudyPaths:
    made = home.study("demo")
    made.create()
    return made


Run = Callable[..., tuple[int, StandIns]]


@pytest.fixture
def run(paths: StudyPaths, composed_once: Callable[..., Config]) -> Run:
    def run_to_the_end(
        *scripts: list[str], overrides: tuple[str, ...] = (), output: Output = Output.PERSON
    ) -> tuple[int, StandIns]:
        cluster, config = StandIns(paths, scripts), composed_once("study=demo", *overrides)
        try:
            return Supervisor(paths, config, output=output, cluster=cluster).run(), cluster
        finally:
            assert cluster.is_closed

    return run_to_the_end


def notes(paths: StudyPaths) -> str:
    found = [event for event in EventReader(paths.events, 0).new() if event["event"] == "note"]
    return "\n".join(event["message"] for event in found)


def stop_when_ready(paths: StudyPaths, workers: int) -> None:
    while notes(paths).count("ready") < workers:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_worker_that_died_is_started_again(run: Run, paths: StudyPaths) -> None:
    code, cluster = run([DIES, HAS_A_DEFECT, ENDS], [LEAVES])
    assert (code, cluster.started) == (0, [3, 1])
    assert "ended with code -9, and is started again (1 of 3)" in notes(paths)
    assert "ended with KeyError, and is started again (2 of 3)" in notes(paths)
    assert "a row" not in notes(paths)


def test_one_that_dies_again_and_again_is_not(run: Run) -> None:
    with pytest.raises(WorkerError, match=r"worker 0 died and left none(.|\n)*the card fell off the bus"):
        run([DIES], overrides=("cluster.restarts=2",))
    with pytest.raises(WorkerError, match="a defect stopped the worker: KeyError; message and trace are in"):
        run([HAS_A_DEFECT], overrides=("cluster.restarts=0",))


@pytest.mark.parametrize("output", Output)
def test_a_trial_that_ended_in_between_forgives(run: Run, paths: StudyPaths, output: Output) -> None:
    again = TELLS.replace("number=0", "number={}") + DIES
    code, cluster = run([again.format(0), again.format(1), ENDS], overrides=("cluster.restarts=1",), output=output)
    assert (code, cluster.started) == (0, [3])
    assert "2 of" not in notes(paths)


def test_what_is_wrong_with_one_is_not_tried_again(run: Run, paths: StudyPaths) -> None:
    code, cluster = run([IS_WRONG], ["time.sleep(1);" + ENDS])
    assert (code, cluster.started) == (0, [1, 1])
    assert "worker 0 has ended, and the others go on: row 7 has no label" in notes(paths)
    with pytest.raises(DataError, match="row 7 has no label"):
        run([IS_WRONG], [LEAVES])
    with pytest.raises(ConfigError, match="must be 4") as refused:
        run(['end("error", kind="ConfigError", message="must be 4", trace=None)'])
    assert refused.value.problems == ["must be 4"]


def test_a_worker_that_is_deaf_is_killed_after_its_grace(run: Run, paths: StudyPaths) -> None:
    stopper = threading.Thread(target=stop_when_ready, args=(paths, 2))
    stopper.start()
    began_s = time.monotonic()
    code, cluster = run([STOPS], [IS_DEAF], overrides=("cluster.grace_s=1.5",))
    stopper.join()
    assert (code, cluster.started) == (INTERRUPTED, [1, 1])
    assert time.monotonic() - began_s < 30
    assert "worker 1 is killed: it has not ended within cluster.grace_s" in notes(paths)
    assert "worker 0 is killed" not in notes(paths)


@pytest.mark.parametrize("is_signalled", [True, False])
def test_a_terminal_that_goes_ends_nothing(home: Home, is_signalled: bool, tmp_path: Path) -> None:
    """With a hang-up, and where nobody is told: what is written then fails."""
    go = tmp_path / "go"
    script = (
        f'events.write("note", message="ready")\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)\n'
        f'for word in ("on", "and on"): events.write("note", message=word); time.sleep(1)\n{ENDS}'
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", stand_in.__name__, script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    text = b""
    while b"note: ready" not in text:
        text += os.read(ours, 4096)
    os.close(ours)
    if is_signalled:
        process.send_signal(signal.SIGHUP)
    go.touch()
    assert process.wait(30) == 0
    said = home.study("demo").launcher_log.read_text()
    assert "code 0" in said
    assert "note: and on" in said


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EIO, StoreError)])
def test_what_cannot_be_written_is_no_terminal_that_is_gone(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    """Where a cluster passes on what workers write elsewhere."""

    def poll(worker: LocalWorker) -> None:
        if poll_it(worker) is not None:
            raise OSError(number, os.strerror(number))

    poll_it = LocalWorker.poll
    monkeypatch.setattr(LocalWorker, "poll", poll)
    with pytest.raises(kind, match=os.strerror(number)):
        run([ENDS])


def test_a_note_that_finds_no_room_is_said(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventLog, "write", write)
    StandIns(paths, []).say("worker 0 waits")
    assert capsys.readouterr().err == "note: worker 0 waits\n"


def test_a_neighbour_that_ends_trials_forgives_nothing(run: Run, paths: StudyPaths) -> None:
    busy = "".join(TELLS.replace("number=0", f"number={number}") for number in range(4)) + ENDS
    code, cluster = run([DIES], [busy], overrides=("cluster.restarts=1",))
    assert (code, cluster.started) == (0, [2, 1])
    assert "worker 0 is not started again: it died 2 times in a row" in notes(paths)
