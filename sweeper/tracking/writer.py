"""The one thread that writes a study's runs: in order, in batches, and again while the store is away.

Training goes on meanwhile. What is given waits in a spool until the store has it (`sweeper.tracking.spool`). Where that
is on the disk, the store may stay away for as long as it likes; where it is in memory, whoever gave it hears of it once
the store has been waited for in vain. A store that refuses is an error either way, which every later call says.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sweeper.errors import AwayError, SweeperError, TrackingError
from sweeper.tracking.operation import Kind, Operation, merged
from sweeper.tracking.spool import Waiting

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
EVERY_S = 5.0  # points wait for others for so long: a call with a thousand costs little more than one with ten
MANY = 1_000  # operations are written at once
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0  # between two tries
STOPPING_S = 5.0  # how long a store has been away when somebody who wants to stop no longer waits for it
_GLANCE_S = 0.2


class Store(ABC):
    """Where runs are written, as its writer sees it."""

    @abstractmethod
    def do(self, operation: Operation) -> None:
        """Does one operation, which may have been done before."""

    @abstractmethod
    def is_passing(self, error: Exception) -> bool:
        """Whether an error may go away by itself."""

    @abstractmethod
    def bars(self, error: Exception) -> bool:
        """Whether it is not the operation that is refused, but whoever brings it."""

    @abstractmethod
    def in_words(self, error: Exception) -> str:
        """What an error means, for whoever reads it."""

    def calling(self) -> AbstractContextManager[None]:
        """What each try happens within."""
        return nullcontext()


@dataclass
class _Question(Generic[Answer]):
    """What is asked of the store once it has all that was given before."""

    ask: Callable[[], Answer]
    behind: int
    is_done: bool = False
    answer: Any = None


class Writer:
    """Does what it is given on a thread of its own, which is there while there is something to do.

    Args:
        patience_s: how long a store that is away is waited for.
        waiting: where what is given waits.

    Attributes:
        announce: told when the store goes away, and when it is back.
        is_stopping: whether somebody wants to stop, and a store that is away is not waited for any longer.
    """

    def __init__(self, store: Store, patience_s: float, waiting: Waiting) -> None:
        self._store, self._patience_s, self._waiting = store, patience_s, waiting
        self.announce: Callable[[str], None] = logger.warning
        self.is_stopping: Callable[[], bool] = lambda: False
        self._found = waiting.found  # of earlier processes, which is done first
        self._given, self._done = self._found, 0  # operations
        self._questions: deque[_Question[Any]] = deque()
        self._due_s: float | None = None  # on the clock that only goes forward; None: nothing waits
        self._thread: threading.Thread | None = None
        self._away_since_s: float | None = None
        self._failure: SweeperError | None = None
        self._changed = threading.Condition()

    @property
    def is_away(self) -> bool:
        """Whether the store could not be reached, and is tried again."""
        return self._away_since_s is not None

    @property
    def count(self) -> int:
        """How many operations wait."""
        return self._given - self._done

    def give(self, operation: Operation) -> None:
        """Has it done behind all that was given before: soon if these are points, which wait for others, else now.

        Raises:
            TrackingError: if what was given before could not be written.
            OSError: if it cannot be kept, for the disk is full.
        """
        with self._changed:
            self._check()
            self._waiting.add(operation)
            self._given += 1
            if operation.kind is Kind.POINTS and self.count < MANY:
                self._wake(EVERY_S)
            elif not self.is_away:
                self._hurry()

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Asks the store something, once it has all that was given before.

        Raises:
            AwayError: if it is away; where what waits is in memory, only after it has been waited for.
            TrackingError: as `give`.
        """
        with self._changed:
            self._check()
            self._questions.append(asked := _Question(question, self._given))
            self._hurry()
            self._changed.wait_for(lambda: asked.is_done or self._failure is not None or self._goes_on_without)
            if not asked.is_done:
                if asked in self._questions:
                    self._questions.remove(asked)
                self._check()
                raise AwayError("the store of the runs is away, and cannot be asked")
            answer: Answer = asked.answer
            return answer

    def flush(self) -> bool:
        """Waits until all is written that was given; not for ever, where it waits on the disk. Whether it is."""
        return self._wait(self._has_waited)

    def settle(self) -> bool:
        """As `flush`, but does not wait for a store that is away; whether all is written."""
        return self._wait(lambda: self.is_away)

    def close(self) -> None:
        """Ends behind what is being written; nothing may be given any more."""
        with self._changed:
            self._failure = self._failure or TrackingError("nothing more is written: its writer has been closed")
            self._changed.notify_all()
        if (thread := self._thread) is not None and not self.is_away:
            thread.join()
        self._waiting.close()

    @property
    def _goes_on_without(self) -> bool:
        """Whether nobody is to wait for the store: it is away, and what it must get is safe."""
        return self._waiting.outlasts and self.is_away

    def _has_waited(self) -> bool:
        since_s = self._away_since_s
        return self._waiting.outlasts and since_s is not None and time.monotonic() - since_s >= self._limit_s()

    def _limit_s(self) -> float:
        return min(self._patience_s, STOPPING_S) if self.is_stopping() else self._patience_s

    def _wait(self, is_enough: Callable[[], bool]) -> bool:
        with self._changed:
            self._check()
            behind = self._given
            while self._done < behind and self._failure is None and not is_enough():
                self._hurry()
                self._changed.wait(_GLANCE_S)
            self._check()
            return self._done >= behind

    def _check(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))

    def _wake(self, within_s: float) -> None:
        """Sees to it that what waits is done within some seconds."""
        due_s = time.monotonic() + within_s
        self._due_s = due_s if self._due_s is None else min(due_s, self._due_s)
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="tracking", daemon=True)
            thread.start()  # raises where there are too many; the next call tries again
            self._thread = thread

    def _hurry(self) -> None:
        self._wake(0.0)
        self._changed.notify_all()

    def _work(self) -> None:
        """Until nothing is left to do, or something fails for good."""
        while True:
            with self._changed:
                while self._failure is None and (rest_s := (self._due_s or 0.0) - time.monotonic()) > 0:
                    self._changed.wait(rest_s)
                self._due_s = None
                batch = merged(self._waiting.first()) if self._failure is None else []
                if not batch and (self._failure is not None or not self._questions):
                    self._thread = None
                    return
            try:
                self._do_all(batch)
                self._answer()
            except Exception as error:  # it must reach whoever waits, and the worker's next call
                self._fail(error)
                return

    def _do_all(self, batch: Sequence[tuple[Operation, int]]) -> None:
        for operation, stands_for in batch:
            if self._failure is not None:  # closed
                return
            self._do(operation)
            with self._changed:
                self._done += stands_for
                self._changed.notify_all()
        with self._changed:
            if batch:
                self._waiting.drop_first()
            if self._questions or self.count >= MANY or (self.count and self._due_s is None):
                self._due_s = 0.0

    def _do(self, operation: Operation) -> None:
        """Does an operation; one of an earlier process that is refused once more is left out."""
        is_old = self._done < self._found
        try:
            self._try(lambda: self._store.do(operation))
        except Exception as error:  # of whatever is between here and the store
            if not is_old or self._store.bars(error):
                raise
            which = f"{operation.kind} of {operation.key}"
            logger.error("left out, for it is refused as in an earlier session: %s", which, exc_info=error)
            self._say(f"something of a run is left out, for it is refused again: {self._store.in_words(error)}")

    def _answer(self) -> None:
        """Asks what stands behind nothing that is not done yet."""
        while True:
            with self._changed:
                asked = next((one for one in self._questions if one.behind <= self._done), None)
            if asked is None:
                return
            answer = self._try(asked.ask)
            with self._changed:
                asked.answer, asked.is_done = answer, True
                if asked in self._questions:  # or whoever asked has gone on without
                    self._questions.remove(asked)
                self._changed.notify_all()

    def _try(self, do: Callable[[], Answer]) -> Answer:
        """Does it, again and again while the store is away."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                with self._store.calling():
                    answer = do()
                break
            except Exception as error:  # of whatever is between here and the store; what is passing is tried again
                if not self._store.is_passing(error) or not self._may_wait(error):
                    raise
            self._pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if self._away_since_s is not None:
            away_s = time.monotonic() - self._away_since_s
            self._away_since_s = None
            self._say(f"runs can be written again after {away_s:.0f} s; nothing of them is lost")
        return answer

    def _may_wait(self, error: Exception) -> bool:
        now_s, outlasts = time.monotonic(), self._waiting.outlasts
        if self._away_since_s is None and (outlasts or self._patience_s > 0):
            with self._changed:
                self._away_since_s = now_s
                self._changed.notify_all()
            until = "on the disk until they can" if outlasts else f"for up to {self._patience_s:g} s"
            self._say(f"runs cannot be written now, and wait {until}: {self._store.in_words(error)}")
        return outlasts or (self._away_since_s is not None and now_s - self._away_since_s < self._limit_s())

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
            words = self._store.in_words(error)
        except Exception as another:  # whoever waits must hear of it, in whatever words
            words = f"{type(error).__name__}, and {type(another).__name__} in saying so"
        logger.info("no more runs are written", exc_info=error)  # for the worker's log: it may be a defect
        kind = TrackingError
        if self._away_since_s is not None:
            kind = AwayError
            words = f"{words} (it was tried again for {time.monotonic() - self._away_since_s:.1f} s)"
        with self._changed:
            self._failure, self._away_since_s, self._thread = kind(words), None, None
            self._changed.notify_all()
