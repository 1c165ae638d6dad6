"""What a launcher needs of whatever runs its workers; each kind of cluster is a module beside this one.

A worker is a process of its own (`python -m sweeper.worker`), wherever it runs. It writes its log, its events and its
outcome into the study's folder; where that is not the launcher's, whoever runs it passes them on.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing

from sweeper.events import EventLog
from sweeper.paths import HOME_VARIABLE, LAUNCHED_S, StudyPaths
from sweeper.redaction import redacted

DETACHED = "--detached"  # a worker that goes on when its launcher is gone
EARLY = "--early"  # one that imports what it needs, then waits for a line with when its launch began, and its work


class Worker(ABC):
    """One worker that was started.

    Attributes:
        index: which of the study's workers it is, from 0; its files are named by it.
        where: it runs, in words for messages, such as `process 4711`.
    """

    index: int
    where: str

    @abstractmethod
    def poll(self) -> int | None:
        """Its exit code once it has ended, below zero where a signal ended it; None while it runs.

        Whatever it has written elsewhere is in the study's folder before this returns.
        """

    @abstractmethod
    def stop(self) -> None:
        """Asks it to checkpoint its trials and to end; does not wait for that."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it at once, with all its processes."""


class Cluster(ABC):
    """Runs the workers of one study.

    Attributes:
        count: of workers that are to run.
    """

    count: int
    _paths: StudyPaths

    def say(self, message: str) -> None:
        """Tells whoever follows the study; where the disk is full, whoever sees standard error."""
        try:
            with closing(EventLog(self._paths.events, worker=None)) as events:
                events.write("note", message=message)
        except OSError:
            print(f"note: {redacted(message)}", file=sys.stderr)

    @abstractmethod
    def start(self, index: int, options: Sequence[str] = ()) -> Worker:
        """Starts a worker; one of that index that ran before has ended.

        Args:
            options: go to the worker's command.

        Raises:
            SweeperError: if it cannot be started.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives back what was taken for the workers, all of which have ended or were never told to begin."""


def command(name: str, index: int, options: Sequence[str] = ()) -> list[str]:
    """The command of a study's worker."""
    # -P: a datasets.py in the folder that one launches from must not be imported as the library.
    return [sys.executable, "-P", "-m", "sweeper.worker", "--index", str(index), *options, name]


def environment(paths: StudyPaths, launched_s: float) -> dict[str, str]:
    """The environment of a worker: this process's, with the store's place and telemetry off.

    Args:
        launched_s: when its launcher began, in seconds since 1970: the device costs from then on.
    """
    return {
        **os.environ,
        HOME_VARIABLE: str(paths.home.root),
        LAUNCHED_S: str(launched_s),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
