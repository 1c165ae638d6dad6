"""A database that is away for a while: what is asked of it is asked again until it is back.

A call may have been done although its answer was lost, so what is called here is safe to be done twice: whoever writes
compares with what it knows, or looks whether it is done already.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from sweeper.errors import StoreError
from sweeper.redaction import redacted

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
_OPTION = "sweeper_patience"  # of an engine
_PAUSES_S = (0.1, 5.0)  # between two tries: the first, each twice the one before, and the longest
# PostgreSQL's codes (its manual, appendix A): it shuts down, has crashed, starts, or has no connection free; it ended a
# connection that was silent; two transactions wanted what the other had.
_PASSING = ("57P01", "57P02", "57P03", "57P05", "53300", "25P03", "40001", "40P01")
_CONNECTION = "08"
# How libpq says what no waiting cures; a connection that fails has no code.
_LASTING = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry", "not permitted")


class Patience:
    """How long a database is waited for, and who hears of it. One for all threads that use it.

    Args:
        place: the database, in words without a password.
        patience_s: how long it is tried again, from when it went away; 0: it is tried once.
        announce: told once when it goes away, and once when it is back.
        is_stopping: whether somebody wants to stop, and it is not waited for any longer.

    Attributes:
        outages: how often it could not be asked.
    """

    def __init__(
        self,
        place: str,
        patience_s: float = 0.0,
        announce: Callable[[str], None] = logger.warning,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._place, self._patience_s = place, patience_s
        self._announce, self._is_stopping = announce, is_stopping
        self._lock = threading.Lock()
        self._away_s: float | None = None  # since when, by this process's clock
        self._inside = threading.local()
        self.outages = 0

    def __call__(self, call: Callable[[], Result]) -> Result:
        """What `call` returns, once the database answers.

        A call within another one is tried again only with that one.

        Raises:
            StoreError: if it does not answer in time.
        """
        if getattr(self._inside, "is_inside", False):
            return call()
        pause_s, longest_s = _PAUSES_S
        while True:
            # Called outside of any `except`, so that an error has none of an earlier try in its chain.
            failure = self._failure(call)
            if not isinstance(failure, BaseException):
                return failure[0]
            waited_s = self._goes_away(failure)
            if waited_s >= self._patience_s or self._is_stopping():
                raise StoreError(
                    f"the storage of the studies must answer, but {self._place} {self._since(waited_s)}: "
                    f"{_reason(failure)}. Once it is back, the same command goes on"
                ) from failure
            time.sleep(min(pause_s, self._patience_s - waited_s))
            pause_s = min(2 * pause_s, longest_s)

    @contextmanager
    def once(self) -> Iterator[None]:
        """What is asked within the block by this thread is tried once; an error is as the database's driver has it."""
        before = getattr(self._inside, "is_inside", False)
        self._inside.is_inside = True
        try:
            yield
        except Exception as error:
            if not before and is_away(error):
                self.outages += 1
            raise
        finally:
            self._inside.is_inside = before

    def _failure(self, call: Callable[[], Result]) -> tuple[Result] | Exception:
        """The result, alone in a tuple; or why the database is away."""
        self._inside.is_inside = True
        try:
            result = call()
        except Exception as error:
            if is_away(error):
                return error
            self._is_back()  # it has answered
            raise
        finally:
            self._inside.is_inside = False
        self._is_back()
        return (result,)

    def _goes_away(self, error: Exception) -> float:
        """Notes that the database is away; the seconds for which it has been."""
        with self._lock:
            self.outages += 1
            now_s = time.monotonic()
            is_news, self._away_s = self._away_s is None, now_s if self._away_s is None else self._away_s
            waited_s = now_s - self._away_s
        if is_news and self._patience_s:
            self._announce(
                f"the storage of the studies is away, and is tried again for store.patience_s={self._patience_s:g} s: "
                f"{self._place}: {_reason(error)}"
            )
        return waited_s

    def _is_back(self) -> None:
        if self._away_s is None:
            return
        with self._lock:
            since_s, self._away_s = self._away_s, None
        if since_s is not None and self._patience_s:
            self._announce(
                f"the storage of the studies is back after {time.monotonic() - since_s:.0f} s: {self._place}"
            )

    def _since(self, waited_s: float) -> str:
        if not self._patience_s:
            return "does not"
        if waited_s >= self._patience_s:
            return f"has not for store.patience_s={self._patience_s:g} s"
        return f"has not for {waited_s:.0f} s, when a stop was asked for"


def attach(engine: Engine, patience: Patience) -> None:
    """Has all that is asked of an engine through `patient` and `in_transaction` wait so."""
    engine.update_execution_options(**{_OPTION: patience})


def patience_of(engine: Engine) -> Patience | None:
    """What was attached to an engine; None: it is never away."""
    found: Patience | None = engine.get_execution_options().get(_OPTION)
    return found


def patient(engine: Engine, call: Callable[[], Result]) -> Result:
    """What `call` returns, once the engine's database answers; raises StoreError as `Patience` does."""
    patience = patience_of(engine)
    return call() if patience is None else patience(call)


@contextmanager
def once(engine: Engine) -> Iterator[None]:
    """What is asked of the engine's database within the block by this thread is tried once."""
    patience = patience_of(engine)
    if patience is None:
        yield
    else:
        with patience.once():
            yield


def in_transaction(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """What `work` returns, done in one transaction that may have to be begun again."""

    def attempt() -> Result:
        with engine.begin() as connection:
            return work(connection)

    return patient(engine, attempt)


def is_away(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, says that the database cannot be asked now, and may be later."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, DBAPIError) and _is_passing(found):
            return True
        found = found.__cause__ or found.__context__
    return False


def _is_passing(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlstate", None)
    if code is not None:
        return code in _PASSING or code.startswith(_CONNECTION)
    words = str(error.orig)
    return error.connection_invalidated or (
        isinstance(error, OperationalError) and not any(lasting in words for lasting in _LASTING)
    )


def _reason(error: BaseException) -> str:
    """The driver's own words, in one line."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, DBAPIError):
        found = found.__cause__ or found.__context__
    return redacted(" ".join(str(found.orig if isinstance(found, DBAPIError) else error).split()))
