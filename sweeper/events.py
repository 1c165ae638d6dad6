"""What the worker tells the launcher while it runs: JSON objects, a line each, in the study's folder."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.redaction import redacted


class EventLog:
    """Appends events to a file; one process writes."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")
        self._writing = threading.Lock()  # the thread that tracks has its own to say

    def write(self, event: str, /, **fields: Any) -> None:
        if isinstance(message := fields.get("message"), str):  # for persons; a program reads the rest
            fields["message"] = redacted(message)
        own = {"event": event, "time": time.time()}  # first, and whatever a field is called
        line = json.dumps({**own, **fields, **own}) + "\n"
        with self._writing:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class EventReader:
    """Reads the events that were written since it was made."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._position = file.stat().st_size if file.is_file() else 0

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
                yield json.loads(line)
