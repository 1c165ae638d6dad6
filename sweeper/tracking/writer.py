"""The one thread that writes a study's runs: in order, in batches, and again while the store is away for a while.

Training goes on meanwhile. What is not written yet is held in memory: at most `MOST_POINTS` numbers, some 40 MB; who
brings more waits. Where the store stays away for longer than it is waited for, or refuses, every later call says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from sweeper.errors import TrackingError
from sweeper.tracking.tracker import RunKey

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
EVERY_S = 5.0  # points wait for others for so long: a call with a thousand costs little more than one with ten
MANY_POINTS = 5_000  # are written at once
MOST_POINTS = 200_000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0  # between two tries
STOPPING_S = 5.0  # how long a store has been away when somebody who wants to stop no longer waits for it
_GLANCE_S = 0.2


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass
class _Task:
    """What is to be done: points to write, or something else; `do` hears whether it is tried again."""

    do: Callable[[bool], Any] | None = None
    key: RunKey | None = None
    points: list[Point] = field(default_factory=list)
    due_s: float = 0.0  # on the clock that only goes forward
    is_done: bool = False
    answer: Any = None


class Writer:
    """Does what it is given on a thread of its own, which is there while there is something to do.

    Args:
        write: writes the points of a run; points that are there already stay as they are.
        is_passing: whether an error may go away by itself.
        in_words: what an error means, for whoever reads it.
        calling: what each try happens within.
        patience_s: how long a store that is away is waited for.

    Attributes:
        announce: told when the store goes away, and when it is back.
        is_stopping: whether somebody wants to stop, and a store that is away is not waited for any longer.
    """

    def __init__(
        self,
        write: Callable[[RunKey, list[Point]], None],
        is_passing: Callable[[Exception], bool],
        in_words: Callable[[Exception], str],
        calling: Callable[[], AbstractContextManager[None]],
        patience_s: float,
    ) -> None:
        self._write, self._is_passing, self._in_words = write, is_passing, in_words
        self._calling, self._patience_s = calling, patience_s
        self.announce: Callable[[str], None] = logger.warning
        self.is_stopping: Callable[[], bool] = lambda: False
        self._tasks: deque[_Task] = deque()
        self._open: dict[RunKey, _Task] = {}  # to which further points of a run are added
        self._held = 0  # points
        self._thread: threading.Thread | None = None
        self._away_since_s: float | None = None
        self._failure: str | None = None
        self._changed = threading.Condition()

    @property
    def is_away(self) -> bool:
        """Whether the store could not be reached, and is tried again."""
        return self._away_since_s is not None

    def add(self, key: RunKey, points: list[Point]) -> None:
        """Writes points of a run, soon; waits where too many are held.

        Raises:
            TrackingError: if what was given before could not be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or self._held < MOST_POINTS)
            self._check()
            if key not in self._open:
                self._open[key] = _Task(key=key, due_s=time.monotonic() + EVERY_S)
                self._append(self._open[key])
            self._open[key].points += points
            self._held += len(points)
            if self._held >= MANY_POINTS and not self.is_away:
                self._hurry()

    def then(self, do: Callable[[bool], Any]) -> None:
        """Does something else behind all that was given before; as `add`."""
        with self._changed:
            self._then(_Task(do=do))

    def ask(self, do: Callable[[bool], Answer]) -> Answer:
        """As `then`, waits for it, and returns what it came to."""
        with self._changed:
            self._then(task := _Task(do=do))
            self._changed.wait_for(lambda: task.is_done or self._failure is not None)
            if not task.is_done:
                self._check()
            answer: Answer = task.answer
            return answer

    def flush(self) -> None:
        """Waits until all is written that was given; as `add`."""
        self._wait(lambda: False)

    def settle(self) -> bool:
        """As `flush`, but does not wait for a store that is away; whether all is written."""
        return self._wait(lambda: self.is_away)

    def _wait(self, is_enough: Callable[[], bool]) -> bool:
        with self._changed:
            self._check()
            if is_enough():  # what waits goes on being gathered: a call for each tick would be all that comes back
                return not self._tasks
            last = self._tasks[-1] if self._tasks else _Task(is_done=True)
            self._open.clear()  # or others could make it longer for ever
            self._hurry()
            self._changed.wait_for(lambda: last.is_done or self._failure is not None or is_enough())
            self._check()
            return last.is_done

    def _then(self, task: _Task) -> None:
        self._check()
        self._open.clear()
        self._append(task)
        self._hurry()

    def _check(self) -> None:
        if self._failure is not None:
            raise TrackingError(self._failure)

    def _append(self, task: _Task) -> None:
        self._tasks.append(task)
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="tracking", daemon=True)
            thread.start()  # raises where there are too many; the next call tries again
            self._thread = thread

    def _hurry(self) -> None:
        for task in self._tasks:
            task.due_s = 0.0
        self._changed.notify_all()

    def _work(self) -> None:
        """Until nothing is left to do, or something fails for good."""
        while True:
            with self._changed:
                while self._tasks and (rest_s := self._tasks[0].due_s - time.monotonic()) > 0:
                    self._changed.wait(rest_s)
                if not self._tasks:
                    self._thread = None
                    return
                task = self._tasks[0]
                self._open = {key: other for key, other in self._open.items() if other is not task}
            try:
                self._try(task)
            except Exception as error:  # it must reach whoever waits, and the worker's next call
                self._fail(error)
                return
            with self._changed:
                task.is_done = True
                self._tasks.popleft()
                self._held -= len(task.points)
                self._changed.notify_all()

    def _try(self, task: _Task) -> None:
        """Does it, again and again while the store is away."""
        pause_s, is_again = FIRST_PAUSE_S, False
        while True:
            try:
                with self._calling():
                    if task.do is not None:
                        task.answer = task.do(is_again)
                    elif task.key is not None:
                        self._write(task.key, task.points)
                break
            except Exception as error:  # of whatever is between here and the store; what is passing is tried again
                if not self._is_passing(error) or not self._may_wait(error):
                    raise
            self._pause(pause_s)
            pause_s, is_again = min(2 * pause_s, LONGEST_PAUSE_S), True
        if self._away_since_s is not None:
            away_s = time.monotonic() - self._away_since_s
            self._away_since_s = None
            self._say(f"runs can be written again after {away_s:.0f} s; nothing of them is lost")

    def _may_wait(self, error: Exception) -> bool:
        now_s = time.monotonic()
        if self._away_since_s is None and self._patience_s > 0:
            with self._changed:
                self._away_since_s = now_s
                self._changed.notify_all()
            self._say(
                f"runs cannot be written now, and are held back for up to {self._patience_s:g} s "
                f"(tracking.patience_s): {self._in_words(error)}"
            )
        patience_s = min(self._patience_s, STOPPING_S) if self.is_stopping() else self._patience_s
        return self._away_since_s is not None and now_s - self._away_since_s < patience_s

    def _pause(self, seconds: float) -> None:
        """Between two tries; a stop ends it."""
        was_stopping, until_s = self.is_stopping(), time.monotonic() + seconds
        while (rest_s := until_s - time.monotonic()) > 0 and self.is_stopping() == was_stopping:
            time.sleep(min(rest_s, _GLANCE_S))

    def _say(self, line: str) -> None:
        try:
            self.announce(line)
        except (OSError, ValueError):  # whoever listened has gone
            logger.warning("%s", line)

    def _fail(self, error: Exception) -> None:
        try:
            words = self._in_words(error)
        except Exception as another:  # whoever waits must hear of it, in whatever words
            words = f"{type(error).__name__}, and {type(another).__name__} in saying so"
        logger.info("no more runs are written", exc_info=error)  # for the worker's log: it may be a defect
        if self._away_since_s is not None:
            tried_s = time.monotonic() - self._away_since_s
            words = f"{words} (it was tried again for {tried_s:.1f} s; tracking.patience_s says for how long)"
        with self._changed:
            self._failure, self._away_since_s, self._thread = words, None, None
            self._changed.notify_all()
