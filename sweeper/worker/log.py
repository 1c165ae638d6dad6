"""A worker's log: what it, its libraries and its interpreter say; with time and level, without secrets, bounded.

Whoever logs, warns or prints is in it, with the trace of what escaped. So is what C code writes, and a crash of the
interpreter, though without a time; these may have a secret in them, and stay in the study's folder.
"""

from __future__ import annotations

import atexit
import faulthandler
import io
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from sweeper.redaction import RedactedStream, redacted

MAX_BYTES = 2 * 1024**2  # of a file, before it is put aside as `.1`
KEPT = 3  # files that are put aside; the oldest goes
_STDOUT, _STDERR = 1, 2


class _Handler(RotatingFileHandler):
    """Takes what bypasses Python's streams along, into the file that is the latest."""

    def _open(self) -> io.TextIOWrapper:
        stream = super()._open()
        for descriptor in (_STDOUT, _STDERR):
            os.dup2(stream.fileno(), descriptor)
        return stream


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class _Printed(io.TextIOBase):
    """What is printed, a record for each line."""

    def __init__(self, level: int, descriptor: int) -> None:
        self._level, self._descriptor = level, descriptor
        self._logger = logging.getLogger("printed")

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                self._logger.log(self._level, "%s", line)
        return len(text)

    def fileno(self) -> int:
        return self._descriptor


def begin(file: Path) -> None:
    """Sends everything that this process says to `file`, from now on."""
    handler = _Handler(file, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.raiseExceptions = False  # it would be printed, and so logged
    logging.captureWarnings(True)
    faulthandler.enable(_STDERR)
    sys.stdout = out = RedactedStream(_Printed(logging.INFO, _STDOUT))
    sys.stderr = err = RedactedStream(_Printed(logging.WARNING, _STDERR))
    atexit.register(out.finish)
    atexit.register(err.finish)
