"""`go on? [y/N]`: asked on a terminal before anything is spent."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
from enum import IntEnum

from sweeper.config.schema import Config

INTERRUPTED = 130  # the shell's code for a process that Ctrl-C ended
_MOST_BYTES = 4096  # of one line that a terminal gives


class Answer(IntEnum):
    """What was answered; its value is the exit code of a launch that it ends."""

    YES = 0
    NO = 1
    NONE = 124  # nobody is there; as timeout(1) says it
    INTERRUPTED = INTERRUPTED


def answer(config: Config) -> Answer:
    """Asks whether to go on, where `confirm` wants that and somebody may be there to answer.

    Without a terminal for both question and answer nobody is, nor for a job in the background: then it is yes.
    """
    if not config.confirm or not (sys.stdin.isatty() and sys.stdout.isatty()) or not _is_in_foreground():
        return Answer.YES
    return ask("go on? [y/N] ", config.preflight.answer_s)


def ask(question: str, answer_s: float) -> Answer:
    """Asks on the terminal, and waits so long for a line. What was typed before is no answer to it."""
    terminal = sys.stdin.fileno()
    termios.tcflush(terminal, termios.TCIFLUSH)
    try:
        print(question, end="", flush=True)
        line = _line(terminal, answer_s)
    except KeyboardInterrupt:
        print()
        return Answer.INTERRUPTED
    if line is None:
        termios.tcflush(terminal, termios.TCIFLUSH)  # half an answer would be the shell's
        print()
        return Answer.NONE
    if not line.endswith(b"\n"):  # Ctrl-D
        print()
    return Answer.YES if line.strip().lower() in (b"y", b"yes") else Answer.NO


def _line(terminal: int, answer_s: float) -> bytes | None:
    """What is typed up to Enter or Ctrl-D; None where that takes too long."""
    deadline = time.monotonic() + answer_s
    while (left_s := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left_s)[0]:  # a terminal gives whole lines
            return os.read(terminal, _MOST_BYTES)
    return None


def _is_in_foreground() -> bool:
    """Whether this process may read from its terminal; one in the background would be halted."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # it is not the terminal that controls this process, which then may
        return True
