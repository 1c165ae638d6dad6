"""How the workers of a study's last session ended, as each of them has written it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import ERRORS
from sweeper.paths import StudyPaths
from sweeper.redaction import redacted

FINISHED = "finished"  # the study, or what was asked of the worker
LEFT = "left"  # its part was done, and another worker ends the study
STOPPED = "stopped"
ERROR = "error"
_ORDER = (FINISHED, ERROR, STOPPED, LEFT)  # of several, the first says how the session ended


@dataclass(frozen=True)
class Outcome:
    """How one worker ended.

    Attributes:
        pid: of its process.
        kind: of an error, the name of its class.
        trace: of a defect.
        log: the worker's, in which all is told.
    """

    pid: int
    status: str
    kind: str | None
    message: str | None
    trace: str | None
    log: Path

    def why(self) -> str:
        """What ended it, in a line without secrets; the message of a defect, which may quote a row, is in the log."""
        if self.kind not in ERRORS:
            return f"a defect stopped the worker: {self.kind}; message and trace are in {self.log}"
        return redacted(" ".join(str(self.message).split()))


def read(paths: StudyPaths, index: int) -> Outcome | None:
    """How a worker ended; None where it has not said so."""
    return _read(paths.outcome(index), paths.worker_log(index))


def last(paths: StudyPaths, since_s: float = 0.0) -> Outcome | None:
    """How the last session ended: it is finished where one of its workers finished; None where none says anything.

    Args:
        since_s: what was written before, in seconds since 1970, is of an earlier session.
    """
    files = [file for file in paths.outcomes if file.stat().st_mtime >= since_s]
    found = [_read(file, paths.worker_log(int(file.name.partition(".")[0]))) for file in files]
    found += [_read(paths.old_outcome, paths.worker_log(0))] if not paths.outcomes and not since_s else []
    known = [one for one in found if one is not None and one.status in _ORDER]
    return min(known, key=lambda one: _ORDER.index(one.status), default=None)


def _read(file: Path, log: Path) -> Outcome | None:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return Outcome(said["pid"], said["status"], said.get("kind"), said.get("message"), said.get("trace"), log)
    except (OSError, ValueError, KeyError, TypeError):
        return None
