"""`on_finish`: a command of the user's, run once everything is stored: to stop a machine that is rented, say."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from enum import StrEnum
from typing import IO

from sweeper.paths import StudyPaths, write_atomically
from sweeper.redaction import redacted

LIMIT_S = 600.0  # that it may take; copying results away takes longer than stopping a machine


class End(StrEnum):
    """How a launch ended, as `SWEEPER_OUTCOME` says it."""

    FINISHED = "finished"
    BUDGET = "budget"  # the study's budget was used up
    STOP = "no-improvement"  # the search no longer paid
    UNANSWERED = "unanswered"
    ERROR = "error"


def ended_by(ended: dict[str, object] | None) -> End:
    """How a study ended whose attribute `ended` is this."""
    if ended is None:
        return End.FINISHED
    return End.STOP if str(ended["key"]).startswith("stop.") else End.BUDGET


def on_finish(command: str, paths: StudyPaths, outcome: End, announce: Callable[[str], None]) -> None:
    """Runs the command in a shell, its output into the study's folder; says what went wrong, and never raises for it.

    Args:
        announce: takes a line for the person.
    """
    announce(f"on_finish: runs now, after {outcome}")
    log = _opened(paths, outcome, announce)
    try:
        said = _run(command, paths, outcome, log if log is not None else subprocess.DEVNULL)
    except OSError as error:
        said = f"could not be run: {error}"
    finally:
        if log is not None:
            log.close()
            _redact(paths)
    if said is not None:
        announce(f"on_finish: {said}" + (f"; its output is in {paths.on_finish_log}" if log is not None else ""))


def _opened(paths: StudyPaths, outcome: End, announce: Callable[[str], None]) -> IO[bytes] | None:
    """The log; None where it cannot be written: the machine is to stop all the same."""
    try:
        log = paths.on_finish_log.open("ab", buffering=0)
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {outcome}\n".encode())
    except OSError as error:
        announce(f"on_finish: its output is not kept, for {paths.on_finish_log} cannot be written: {error.strerror}")
        return None
    return log


def _run(command: str, paths: StudyPaths, outcome: End, output: IO[bytes] | int) -> str | None:
    """Runs the command; what went wrong with it, or None."""
    process = subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={
            **os.environ,
            "SWEEPER_STUDY": paths.name,
            "SWEEPER_HOME": str(paths.home.root),
            "SWEEPER_OUTCOME": outcome.value,
        },
    )
    try:
        code = process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"ran for more than {LIMIT_S:g} s, and was killed"
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return f"ended with code {code}" if code else None


def _redact(paths: StudyPaths) -> None:
    """Takes the secrets that the command printed out of the log."""
    try:
        text = paths.on_finish_log.read_text(encoding="utf-8", errors="replace")
        if redacted(text) != text:
            write_atomically(paths.on_finish_log, redacted(text))
    except OSError:  # the disk is full, perhaps; what is there stays in the study's folder
        pass
