"""`go on? [y/N]`, on a real terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.launching import launcher
from sweeper.launching.question import INTERRUPTED, Answer
from sweeper.paths import Home
from sweeper.preflight import cost
from sweeper.search.views import begun as begun_study
from tests.config.test_edits import edited
from tests.conftest import SHORT
from tests.launch.test_launch import wait_for
from tests.launch.test_resume import Begun, begun, told

__all__ = ["begun", "told"]  # fixtures

ASK = """
import sys
from sweeper.launching.question import ask
print("answer:", ask("go on? [y/N] ", float(sys.argv[1])).name)
"""


class Terminal:
    """A process on a terminal of its own, which controls it."""

    def __init__(self, *command: str) -> None:
        self._side, other = pty.openpty()
        name = os.ttyname(other)
        # A process that leads a session gets the first terminal that it opens.
        shell = ["sh", "-c", f'exec "$@" <{name} >{name} 2>&1', "sh", sys.executable, *command]
        self._process = subprocess.Popen(shell, start_new_session=True)
        self.shown = ""
        self._read(
            lambda: self._process.poll() is not None or Path(f"/proc/{self._process.pid}/fd/2").readlink() == Path(name)
        )
        os.close(other)

    def type(self, keys: bytes, after: str) -> None:
        """Types once the terminal shows `after`."""
        self._read(lambda: after in self.shown)
        os.write(self._side, keys)

    def end(self) -> int:
        """Waits for the process; its exit code."""
        self._read(lambda: False)
        os.close(self._side)
        return self._process.wait()

    def _read(self, is_enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not is_enough():
            assert time.monotonic() < deadline, self.shown
            if select.select([self._side], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._side, 65536).decode()
                except OSError:  # the process has ended
                    return


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        *((b"y\n", "YES"), (b" YES \n", "YES")),
        *((b"n\n", "NO"), (b"\n", "NO"), (b"yep\n", "NO"), (b"\x04", "NO")),
        *((b"\x03", "INTERRUPTED"), (b"y", "NONE")),  # nobody pressed Enter
    ],
)
def test_an_answer_is_a_line(keys: bytes, expected: str) -> None:
    terminal = Terminal("-c", ASK, "1.5")
    terminal.type(keys, after="go on? [y/N] ")
    assert terminal.end() == 0
    assert f"answer: {expected}" in terminal.shown


def test_what_was_typed_before_the_question_is_no_answer() -> None:
    terminal = Terminal("-c", "import time; print('reading rows', flush=True); time.sleep(1)\n" + ASK, "0.5")
    terminal.type(b"y\n", after="reading rows")
    assert terminal.end() == 0
    assert "answer: NONE" in terminal.shown


def test_a_job_in_the_background_is_not_asked() -> None:
    """It would be halted by the terminal that it reads from."""
    job = """
import os, sys
from types import SimpleNamespace as N
from sweeper.launching.question import answer
if (child := os.fork()) == 0:
    os.setpgid(0, 0)  # as a shell does for a job that ends with &
    print("answer:", answer(N(confirm=True, preflight=N(answer_s=60))).name, flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, os.WUNTRACED)[1]) == 0
"""
    terminal = Terminal("-c", job)
    assert terminal.end() == 0
    assert "answer: YES" in terminal.shown


def is_at(process: psutil.Process, home: Home) -> bool:
    return (process.info["environ"] or {}).get("SWEEPER_HOME") == str(home.root) and process.pid != os.getpid()


def test_a_new_study_costs_nothing_while_a_person_thinks(
    home: Home, few_tickets: Path, monkeypatch: pytest.MonkeyPatch, composed_once: Callable[..., Config]
) -> None:
    told_s: list[float] = []

    class Cluster(launcher.LocalCluster):
        def prepare(self) -> None:
            pass

    def think(_: Config) -> Answer:
        time.sleep(0.5)
        return Answer.YES

    monkeypatch.setattr(launcher, "LocalCluster", Cluster)
    monkeypatch.setattr(launcher, "answer", think)
    monkeypatch.setattr(cost, "summary", lambda *_: [])  # it takes a second
    monkeypatch.setattr(launcher.Supervisor, "run", lambda self: told_s.append(self._cluster.launched_s) or 0)
    launcher.launch(composed_once(*SHORT, f"data.path={few_tickets}"), lambda _: None, since_s=1000.0)
    assert 1000.5 <= told_s[0] < 1001.0


def test_a_launch_goes_on_only_with_a_yes(home: Home, few_tickets: Path) -> None:
    arguments = ["-m", "sweeper", "launch", *SHORT, f"data.path={few_tickets}", "search.trials=1"]
    paths = home.study("demo")
    ran = 'on_finish="echo $SWEEPER_OUTCOME of $SWEEPER_STUDY in $SWEEPER_HOME"'
    terminal = Terminal(*arguments, "preflight.answer_s=0.5", ran)
    assert terminal.end() == 124
    assert "nobody answered within preflight.answer_s=0.5 s" in terminal.shown
    assert f"unanswered of demo in {home.root}" in paths.on_finish_log.read_text()
    assert not paths.events.exists()
    assert begun_study(home, "demo") is None
    assert not [one for one in psutil.process_iter(["environ"]) if is_at(one, home)]  # nor a worker that waits for more

    terminal = Terminal(*arguments)
    terminal.type(b"y\n", after="go on? [y/N] ")
    wait_for(paths.events.exists)  # the worker works
    terminal.type(b"\x03", after="go on?")
    assert terminal.end() == INTERRUPTED


def test_without_a_terminal_there_is_no_question() -> None:
    config = """
from types import SimpleNamespace as N
from sweeper.launching.question import answer
print(answer(N(confirm=True, preflight=N(answer_s=60))).name)
"""
    done = subprocess.run([sys.executable, "-c", config], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "YES\n")
    terminal = Terminal("-c", config.replace("confirm=True", "confirm=False"))  # and with one, if it is not wanted
    assert terminal.end() == 0
    assert terminal.shown == "YES\r\n"


@pytest.mark.parametrize("given", [Answer.NO, Answer.NONE, Answer.INTERRUPTED])
def test_a_study_that_was_to_go_on_is_as_it_was(begun: Begun, monkeypatch: pytest.MonkeyPatch, given: Answer) -> None:
    before = check.load(begun.paths)
    now = edited(before, "search.trials", 99)
    monkeypatch.setattr(cost, "summary", lambda *_: ["13 trials are left"])
    monkeypatch.setattr(launcher, "answer", lambda _: given)
    assert launcher.launch(now, begun.said.append) == given
    # What would change is said before the question.
    assert begun.said[:2] == ["note: search.trials: was 16, is 99", "13 trials are left"]
    assert (check.load(begun.paths), begun.record, begun.started) == (before, [], [])
    with FileLock(begun.paths.launcher_lock, timeout=0):  # it is free
        pass

    def slowly(_: Config) -> Answer:
        time.sleep(0.2)
        return Answer.YES

    monkeypatch.setattr(launcher, "answer", slowly)
    started_s = time.time()
    begun.launch(now)
    assert (check.load(begun.paths), len(begun.record), len(begun.started)) == (now, 1, 1)
    assert begun.since_s >= started_s + 0.2  # the wait for an answer is not booked


def test_a_script_is_not_asked(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "answer", lambda _: Answer.NO)
    config = check.load(begun.paths)
    assert launcher.launch(config, begun.said.append) == Answer.NO
    assert launcher.launch(config, begun.said.append, as_json=True) == 0
    assert len(begun.started) == 1


def test_a_missing_price_is_said_before_anything_is_read(home: Home, composed_once: Callable[..., Config]) -> None:
    config = composed_once("study=demo", "data=files", "data.path=/nowhere", "budget.usd=2")
    with pytest.raises(ConfigError, match=r"budget\.usd: dollars need a price"):
        launcher.launch(config)
    assert not home.study("demo").root.exists()
