"""What the worker tells the launcher while it runs: JSON objects, a line each, in the study's folder."""

from __future__ import annotations

import json
import logging
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.clock import now_s
from sweeper.disk import Lines
from sweeper.redaction import redacted

WARNINGS = ("checkpoint_skipped", "checkpoint_damaged", "lease_lost", "evicted")  # their messages are for a person
_FREQUENT = ("tick", "evaluating", "spent")  # which are no news to whoever reads a log
logger = logging.getLogger(__name__)


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


class EventLog:
    """Appends events to a file, and the rarer ones to the worker's log; several processes may write.

    Args:
        worker: which of the study's workers says it; None: its launcher.

    Raises:
        OSError: where the disk is full.
    """

    def __init__(self, file: Path, worker: int | None = 0) -> None:
        self._file = Lines(file)
        self._worker = worker
        self._writing = threading.Lock()  # the thread that tracks has its own to say

    def write(self, event: str, /, **fields: Any) -> None:
        if isinstance(message := fields.get("message"), str):  # for persons; a program reads the rest
            fields["message"] = redacted(message)
        own = {"event": event, "time": now_s(), "worker": self._worker}  # first, and whatever a field is called
        line = json.dumps({**own, **fields, **own}) + "\n"
        with self._writing:
            self._file.add(line)
        if event not in _FREQUENT:
            words = ", ".join(f"{name} {_short(value)}" for name, value in fields.items() if value is not None)
            logger.log(logging.WARNING if event in WARNINGS else logging.INFO, "%s: %s", event, words)

    def close(self) -> None:
        self._file.close()


class EventReader:
    """Reads the events that were written since it was made, or since an earlier one."""

    def __init__(self, file: Path, position: int | None = None) -> None:
        """Reads `file`, which need not be there yet, from a place in it; None: from its end."""
        self._path = file
        self._position = position if position is not None else file.stat().st_size if file.is_file() else 0

    @classmethod
    def of_session(cls, file: Path, first: str, since_s: float) -> EventReader:
        """Reads from the latest event of a kind on, if that is not older; else from the end.

        Args:
            first: the event that a session begins with.
            since_s: when the session began, in seconds since 1970.
        """
        if not file.is_file() or not file.stat().st_size:
            return cls(file)
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
            place = text.rfind(f'{{"event": "{first}", "time": '.encode())
            if place < 0:
                return cls(file, len(text))
            end = text.find(b"\n", place)
            event = _read(text[place:end]) if end >= 0 else None
            return cls(file, place if event is not None and event["time"] >= since_s else len(text))

    def new(self) -> Iterator[dict[str, Any]]:
        """Yields the events that are complete and were not yielded before."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # half written
                self._position += len(line)
                event = _read(line)
                if event is not None:
                    yield event


def _read(line: bytes) -> dict[str, Any] | None:
    """An event; None for what a kill or a full disk has left of one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
