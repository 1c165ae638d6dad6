"""The command of `on_finish`: when it runs, what it knows, and that it never gets in the way."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from sweeper.cli import launch as cli
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, DataError, HeldError, SweeperError
from sweeper.launching import on_finish as module
from sweeper.launching.on_finish import End, ended_by, on_finish
from sweeper.launching.question import INTERRUPTED, Answer
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import StudyView


@pytest.fixture
def paths(home: Home) -> StudyPaths:
    made = home.study("demo")
    made.create()
    return made


def run(command: str, paths: StudyPaths) -> list[str]:
    """What is said of it."""
    said: list[str] = []
    on_finish(command, paths, End.BUDGET, said.append)
    assert said.pop(0) == "on_finish: runs now, after budget"
    return said


def test_it_knows_the_study_and_how_it_ended(paths: StudyPaths) -> None:
    assert run("echo $SWEEPER_STUDY $SWEEPER_OUTCOME; ls -d $SWEEPER_HOME; echo bad >&2", paths) == []
    assert run("cat; exit 0", paths) == []  # there is nothing to read, nor anybody to wait for
    first, study, folder, error, second = paths.on_finish_log.read_text().splitlines()
    assert (study, folder, error) == ("demo budget", str(paths.home.root), "bad")
    assert first.endswith(" budget")
    assert second.endswith(" budget")


def test_its_exit_code_is_said(paths: StudyPaths) -> None:
    assert run("exit 3", paths) == [f"on_finish: ended with code 3; its output is in {paths.on_finish_log}"]
    [said] = run("no-such-command-here", paths)
    assert "ended with code 127" in said
    assert "no-such-command-here" in paths.on_finish_log.read_text()


def test_one_that_hangs_is_killed_whole(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.5)
    pid = tmp_path / "pid"
    [said] = run(f"sleep 60 & echo $! > {pid}; wait", paths)
    assert "ran for more than 0.5 s, and was killed" in said
    for _ in range(50):
        if not Path(f"/proc/{pid.read_text().strip()}/cmdline").exists():
            break
        if "Z" in Path(f"/proc/{pid.read_text().strip()}/stat").read_text().split()[2]:  # nobody waits for it
            break
        time.sleep(0.1)
    else:
        pytest.fail("what the command started still runs")


def test_ctrl_c_ends_it(paths: StudyPaths) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run("sleep 60", paths)
    assert time.monotonic() - started < 30


def test_it_runs_though_its_output_cannot_be_kept(home: Home, tmp_path: Path) -> None:
    paths = home.study("demo")  # without a folder
    [said] = run(f"touch {tmp_path / 'stopped'}", paths)
    assert "its output is not kept" in said
    assert (tmp_path / "stopped").exists()


def test_a_secret_that_it_prints_is_not_kept(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENTAL_API_KEY", "correct-horse")
    assert run("echo key is $RENTAL_API_KEY", paths) == []
    assert "key is [redacted]" in paths.on_finish_log.read_text()


def test_a_secret_in_the_command_is_refused(composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENTAL_API_KEY", "correct-horse")
    with pytest.raises(ConfigError) as caught:
        composed("study=demo", "on_finish='stop --key correct-horse now'")
    assert "on_finish: must not have a token or a password" in str(caught.value)
    assert "on_finish may say $NAME" in str(caught.value)
    assert "correct-horse" not in str(caught.value)
    assert composed("study=demo", "on_finish='stop --key $RENTAL_API_KEY'").on_finish == "stop --key $RENTAL_API_KEY"


def test_how_a_study_ended() -> None:
    assert ended_by(None) is End.FINISHED
    assert {ended_by({"key": f"budget.{name}"}) for name in ("usd", "hours", "trials")} == {End.BUDGET}
    assert ended_by({"key": "stop.trials"}) is ended_by({"key": "stop.usd"}) is End.STOP


def test_a_limit_that_was_raised_since_did_not_end_it(composed: Callable[..., Config]) -> None:
    ended = StudyView("demo", [], {"ended": {"key": "budget.trials", "settings": 3}})
    for limit, outcome in ((3, End.BUDGET), (9, End.FINISHED)):
        assert cli._end(ended, composed("study=demo", f"budget.trials={limit}")) is outcome


@pytest.mark.parametrize(
    ("end", "code", "outcome"),
    [
        (0, 0, "no-improvement"),
        (DataError("no rows"), 2, "error"),
        (ValueError("a defect"), 1, "error"),
        (Answer.NONE, 124, "unanswered"),
        (HeldError("somebody else needs the machine"), 2, None),
        *((INTERRUPTED, INTERRUPTED, None), (Answer.NO, 1, None), (Answer.INTERRUPTED, INTERRUPTED, None)),
        (KeyboardInterrupt(), None, None),
    ],
)
def test_it_runs_where_nobody_is_there_and_after_everything_was_said(
    end: int | BaseException,
    code: int | None,
    outcome: str | None,
    composed: Callable[..., Config],
    paths: StudyPaths,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def launch(config: Config, announce: Callable[[str], None], since_s: float, as_json: bool) -> int:
        assert since_s < time.time()
        if isinstance(end, BaseException):
            raise end
        return end

    monkeypatch.setattr(cli, "launch", launch)
    monkeypatch.setattr(cli, "_print_result", lambda *_: click.echo("the result"))
    config = composed("study=demo", "on_finish='echo ran'")
    ended = {"key": "stop.trials", "settings": config.stop.model_dump(mode="json"), "is_closed": True}
    monkeypatch.setattr(cli, "view", lambda *_: StudyView("demo", [], {"ended": ended}))

    def to_the_end() -> int:
        return cli.launch_to_the_end(config)

    if code is None:
        with pytest.raises(KeyboardInterrupt):
            to_the_end()
    else:
        assert to_the_end() == code
    out, err = capfd.readouterr()
    assert ("the result" in out) == (end == 0 or end is INTERRUPTED)
    assert paths.on_finish_log.exists() == (outcome is not None)
    if outcome is not None:
        assert paths.on_finish_log.read_text().splitlines()[-1] == "ran"
        *before, said = err.splitlines()
        assert said == f"on_finish: runs now, after {outcome}"
        assert any(str(end) in line for line in before) == isinstance(end, Exception)
        assert ("Traceback" in err) == (isinstance(end, Exception) and not isinstance(end, SweeperError))
    if outcome == "error":  # and without the key
        paths.on_finish_log.unlink()
        config = composed("study=demo")
        assert to_the_end() == code
        assert not paths.on_finish_log.exists()


def test_it_does_not_run_while_a_worker_that_has_joined_ends_the_study(
    composed: Callable[..., Config],
    paths: StudyPaths,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "launch", lambda *_: 0)
    monkeypatch.setattr(cli, "_print_result", lambda _home, _name, is_finished: click.echo(f"finished: {is_finished}"))
    monkeypatch.setattr(cli, "view", lambda *_: StudyView("demo", [], {}))
    assert cli.launch_to_the_end(composed("study=demo", "on_finish='echo ran'")) == 0
    assert not paths.on_finish_log.exists()
    out, _ = capfd.readouterr()
    assert "finished: False" in out
    assert "a worker that has joined demo brings it to its end" in out


def test_it_runs_where_the_result_cannot_be_printed(
    composed: Callable[..., Config], paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(*_: object) -> int:
        raise DataError("no rows")

    def print_result(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "launch", launch)
    monkeypatch.setattr(cli, "print_json_result", print_result)
    with pytest.raises(BrokenPipeError):
        cli.launch_to_the_end(composed("study=demo", "on_finish='echo ran'"), as_json=True)
    assert paths.on_finish_log.read_text().splitlines()[-1] == "ran"
