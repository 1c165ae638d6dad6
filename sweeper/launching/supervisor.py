"""Starts a study's workers, follows them, starts again those that die, and passes interruptions on.

A worker that dies takes nothing along: its trials go back to the queue with their checkpoints (see
`sweeper.search.leases`), and whoever has a free slot goes on with them. One that ends with an error of its own is not
started again, since the same would happen; the others go on, and the last one of them ends the study.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from sweeper import outcome
from sweeper.cluster.cluster import Cluster, Worker
from sweeper.cluster.clusters import cluster_of
from sweeper.config.schema import Config
from sweeper.disk import EXIT_CODE as DISK_FULL
from sweeper.disk import full, is_full, no_room
from sweeper.errors import ERRORS, DiskFullError, StoreError, SweeperError, WorkerError, remade
from sweeper.events import EventLog, EventReader
from sweeper.launching.progress import Progress
from sweeper.launching.question import INTERRUPTED
from sweeper.launching.screen import Output, show
from sweeper.outcome import Outcome
from sweeper.paths import StudyPaths
from sweeper.search.views import StudyView

_POLL_S = 0.2
_LAST_LINES = 15  # of the log of a worker that said nothing of its end


@dataclass
class _Watched:
    """One worker, and how often it has been started again since it ended a trial."""

    worker: Worker
    restarts: int = 0
    ended_trials: int = 0


class Supervisor:
    """Runs the workers of one launch to their end."""

    def __init__(
        self,
        paths: StudyPaths,
        config: Config,
        before: StudyView | None = None,
        options: Sequence[str] = (),
        since_s: float | None = None,
        output: Output = Output.PERSON,
        cluster: Cluster | None = None,
        first: int = 0,
    ) -> None:
        """Of one launch.

        Args:
            before: the study as earlier sessions left it.
            options: go to the workers.
            since_s: when it began, in seconds since 1970: the device costs from then on; None: now.
            output: where its progress is shown.
            cluster: where the workers run; None: where the settings say.
            first: the index of the first of them; above 0 where they join those of a launcher.
        """
        self._options = options
        self._output = output
        self._paths = paths
        self._config = config
        launched_s = time.time() if since_s is None else since_s
        self._cluster = cluster if cluster is not None else cluster_of(paths, config, launched_s)
        self._progress = Progress.of(config, before, launched_s)
        self._indices = range(first, first + self._cluster.count)
        self._running: dict[int, _Watched] = {}
        self._outcomes: dict[int, Outcome | None] = {}  # of the workers that have ended
        self._interruptions = 0
        self._kill_at_s: float | None = None  # on the clock that only goes forward
        self._is_hung_up = False

    def run(self) -> int:
        """Returns 0 where the workers have done what they were to do, or `INTERRUPTED`.

        Raises:
            SweeperError: what stopped all of them.
        """
        is_joining = self._indices.start > 0
        for file in [self._paths.outcome(index) for index in self._indices] if is_joining else self._paths.outcomes:
            file.unlink(missing_ok=True)
        previous = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGHUP, self._hang_up)  # also afterwards: the mirror and `on_finish` come then
        reader = EventReader(self._paths.events)
        self._events = EventLog(self._paths.events, worker=None)
        self._events.write("joined" if is_joining else "launched", workers=len(self._indices))
        try:
            for index in self._indices:
                self._running[index] = _Watched(self._cluster.start(index, self._options))
                if self._interruptions:  # while it was starting
                    self._running[index].worker.stop()
            self._follow(reader)
        finally:
            for watched in self._running.values():  # only where this process fails
                watched.worker.stop()
            self._cluster.close()
            self._events.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._conclude()

    def _follow(self, reader: EventReader) -> None:
        """Shows what happens until no worker runs; a terminal that is gone ends the showing alone."""
        while self._running:
            was_hung_up = self._is_hung_up
            try:
                with show(self._progress, self._output) as screen:
                    while self._running and self._is_hung_up == was_hung_up:
                        self._look()
                        screen.update(reader.new())
                        time.sleep(_POLL_S)
                    screen.update(reader.new())
            except OSError:  # nobody reads what is shown any more, and no signal said so
                if self._is_hung_up:
                    raise
                self._hang_up(signal.SIGHUP, None)

    def _look(self) -> None:
        """Deals with the workers that have ended since."""
        for index, watched in list(self._running.items()):
            code = self._poll(watched.worker)
            if code is None:
                continue
            del self._running[index]
            found = self._outcomes[index] = self._outcome(index, code)
            if found is not None and found.status == outcome.FINISHED:
                for other in self._running.values():  # some may still wait for a node, or in a queue
                    other.worker.stop()
            if self._may_go_on(found) and not self._restart(index, watched, code, found):
                self._cluster.say(f"worker {index} is not started again: it died {watched.restarts + 1} times in a row")
            elif found is not None and found.status == outcome.ERROR and self._running:
                self._cluster.say(f"worker {index} has ended, and the others go on: {found.why()}")
        if self._kill_at_s is not None and time.monotonic() > self._kill_at_s:
            for index, watched in self._running.items():
                self._cluster.say(f"worker {index} is killed: it has not ended within cluster.grace_s")
                watched.worker.kill()
            self._kill_at_s = None

    def _poll(self, worker: Worker) -> int | None:
        """As the worker's; a file that cannot be written is no terminal that is gone."""
        try:
            return worker.poll()
        except OSError as error:
            if is_full(error):
                raise full(error, self._paths.root) from error
            raise StoreError(
                f"what a worker writes must reach {self._paths.root}, but that of {worker.where} does not: {error}"
            ) from error

    def _outcome(self, index: int, code: int) -> Outcome | None:
        """How a worker ended; None where it died."""
        found = outcome.read(self._paths, index)
        if found is None and code == DISK_FULL:  # it could not even write that
            words, log = str(no_room(self._paths.root)), self._paths.worker_log(index)
            return Outcome(0, outcome.ERROR, DiskFullError.__name__, words, None, log)
        return found

    def _may_go_on(self, found: Outcome | None) -> bool:
        """Whether a worker that has ended was to go on: it died, or a defect stopped it."""
        if self._interruptions or any(
            one is not None and one.status == outcome.FINISHED for one in self._outcomes.values()
        ):
            return False
        return found is None or (found.status == outcome.ERROR and found.kind not in ERRORS)

    def _restart(self, index: int, before: _Watched, code: int, found: Outcome | None) -> bool:
        """Starts a worker again, unless it has died too often without ending a trial in between."""
        ended = self._progress.ended_by[index]
        restarts = before.restarts if ended == before.ended_trials else 0
        if restarts >= self._config.cluster.restarts:
            return False
        how = f"code {code}" if found is None else str(found.kind)
        self._cluster.say(
            f"worker {index} ({before.worker.where}) ended with {how}, and is started again "
            f"({restarts + 1} of {self._config.cluster.restarts}); its trials go on from their checkpoints"
        )
        self._paths.outcome(index).unlink(missing_ok=True)
        try:
            again = self._cluster.start(index, self._options)
        except (SweeperError, OSError) as error:
            self._cluster.say(f"worker {index} cannot be started again: {error}")
            return True
        self._running[index] = _Watched(again, restarts + 1, ended)
        del self._outcomes[index]
        if self._interruptions:  # while it was starting
            again.stop()
        return True

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM and self._interruptions:
            return  # `sweeper stop`, again: only a person's second Ctrl-C ends at once
        self._interruptions += 1
        if self._interruptions == 1:
            self._kill_at_s = time.monotonic() + self._config.cluster.grace_s
            if not self._is_hung_up:
                print("\nstopping: the trials in flight are checkpointed; Ctrl-C again ends at once", file=sys.stderr)
        for watched in list(self._running.values()):
            if self._interruptions == 1:
                watched.worker.stop()
            else:
                watched.worker.kill()

    def _hang_up(self, _number: int, _frame: FrameType | None) -> None:
        """The terminal is gone: the study goes on, and what would be shown there goes to a file."""
        self._is_hung_up = True
        self._paths.logs.mkdir(exist_ok=True)
        log = os.open(self._paths.launcher_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, file in ((0, null), (1, log), (2, log)):
            os.dup2(file, descriptor)

    def _conclude(self) -> int:
        """What the workers' outcomes come to together."""
        known = [one for one in self._outcomes.values() if one is not None]
        statuses = {one.status for one in known}
        if outcome.FINISHED in statuses:
            return 0
        errors = [one for one in known if one.status == outcome.ERROR]
        if not errors and (self._interruptions or outcome.STOPPED in statuses):
            return INTERRUPTED
        if errors:
            raise self._raised(errors[0])
        if None in self._outcomes.values():
            index = next(index for index, one in self._outcomes.items() if one is None)
            raise WorkerError(
                f"a worker must end with an outcome, but worker {index} died and left none; the last lines of "
                f"{self._paths.worker_log(index)}:\n{self._log_tail(index)}\n"
                "Its trials resume when the same command is run again"
            )
        return 0  # their part is done, and another worker ends the study

    def _raised(self, found: Outcome) -> SweeperError:
        if found.kind not in ERRORS:
            return WorkerError(f"{found.why()}. Its trials resume when the same command is run again")
        return remade(found.kind, str(found.message))

    def _log_tail(self, index: int) -> str:
        lines = self._paths.worker_log(index).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])
