"""A worker's meter: what its device's time goes to, from the start of the process on.

`book` says what has been done since it was last called, so every moment belongs to one booking and none is left out. A
thread writes to the ledger what was booked, and that the worker is alive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from sweeper.errors import StoreError
from sweeper.money.booking import SECOND_US, STUDY, Activity, Booking, Whose, split
from sweeper.money.ledger import LateWriteError, Ledger, SessionEndedError
from sweeper.money.price import Price
from sweeper.search.leases import Holder
from sweeper.search.patience import once, patient

logger = logging.getLogger(__name__)
BEAT_S = 2.0  # between two heartbeats: what a kill may lose of what had been done
# It goes on while a machine sleeps, and so does the rent.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_us() -> int:
    """Microseconds of a clock that never goes back."""
    return time.clock_gettime_ns(_CLOCK) // 1000


class Meter:
    """Books one worker's time.

    Args:
        started_s: when the worker began, in seconds since 1970; it may be before now.
        energy_mj: what the device has taken so far, in millijoules; None: nothing measures it.
        clock_us: a clock that never goes back.
        wall_s: seconds since 1970.
    """

    def __init__(
        self,
        ledger: Ledger,
        study: str,
        device: str,
        price: Price | None,
        started_s: float,
        energy_mj: Callable[[], int] | None = None,
        clock_us: Callable[[], int] = now_us,
        wall_s: Callable[[], float] = time.time,
        holder: Holder | None = None,
    ) -> None:
        if price is not None and energy_mj is None:  # what nobody measures has no price, rather than one of zero
            price = replace(price, tariff_usd_per_kwh=None)
        self._ledger, self._study, self._device, self.price = ledger, study, device, price
        self._clock_us, self._holder = clock_us, holder
        self._energy_mj = energy_mj or (lambda: 0)
        self._lock = threading.RLock()
        self._started_s = started_s
        now_us = clock_us()
        self._start_us = now_us - max(0, round((wall_s() - started_s) * SECOND_US))
        self._mark_us = self._start_us  # everything before it is booked, or in `_pending`
        self._mark_mj = self._energy_mj()
        self._pending: dict[tuple[Whose, Activity], tuple[int, int, int]] = {}
        # Writes that failed, perhaps after they were done, since one that did not: heartbeats and what they book.
        self._in_doubt: list[tuple[int, list[Booking]]] = []
        self._written = 0, now_us - self._start_us  # of this session: what is booked, and the last heartbeat
        self.session = ledger.open(study, device, started_s, price, holder, self._written[1])

    def book(self, activity: Activity, units: Mapping[Whose, int] | None = None, until_s: float | None = None) -> float:
        """Books what has passed since the last booking.

        Args:
            units: tokens or rows of each run that it was for, in proportion to which it is split; None: the study's.
            until_s: seconds since 1970, between the last booking and now; None: now.

        Returns:
            The seconds.
        """
        with self._lock:
            now, energy_mj = self._clock_us(), self._energy_mj()
            if until_s is not None:
                then = self._start_us + round((until_s - self._started_s) * SECOND_US)
                now = min(max(then, self._mark_us), now)
            passed_us, taken_mj = now - self._mark_us, max(0, energy_mj - self._mark_mj)
            self._mark_us, self._mark_mj = now, energy_mj
            weights = dict(units or {STUDY: 0})
            parts, energies = split(passed_us, weights), split(taken_mj, weights)
            for whose, us in parts.items():
                known = self._pending.get((whose, activity), (0, 0, 0))
                own = (us, energies[whose], weights[whose])
                self._pending[whose, activity] = (known[0] + own[0], known[1] + own[1], known[2] + own[2])
            return passed_us / SECOND_US

    def elapsed_us(self) -> int:
        """Since the session began."""
        with self._lock:
            return self._clock_us() - self._start_us

    def flush(self, is_last: bool = False) -> None:
        """Writes what was booked, and that the worker is alive.

        Args:
            is_last: whether the session ends with what is booked.

        Raises:
            SQLAlchemyError: if the database cannot be written; nothing is dropped, and the next time may do.
            StoreError: if it has been away for too long; the same holds.
        """
        patient(self._ledger.engine, partial(self._flush, is_last))

    def _flush(self, is_last: bool) -> None:
        with self._lock:
            if self._in_doubt and self._is_done() and is_last:
                return
            heartbeat_us = (self._mark_us if is_last else self._clock_us()) - self._start_us
            bookings = [
                Booking(self.session, whose, activity, *sizes) for (whose, activity), sizes in self._pending.items()
            ]
            self._in_doubt.append((heartbeat_us, bookings))
            try:
                self._ledger.book(self.session, bookings, heartbeat_us, is_last, self._written)
            except (SessionEndedError, LateWriteError) as refusal:
                self._in_doubt.pop()
                is_late = isinstance(refusal, LateWriteError)
                if is_late and not self._in_doubt:
                    raise
                if self._is_done() and is_last:
                    return
                if not is_late:
                    self._go_on()
                if is_late or is_last:
                    self._flush(is_last)
                return
            self._pending.clear()
            self._in_doubt.clear()  # what has not taken effect cannot any more: what is booked is another sum by now
            self._written = self._written[0] + sum(one.us for one in bookings), heartbeat_us

    def _is_done(self) -> bool:
        """Takes off what a write that failed had written all the same; whether the session has ended with it."""
        there = self._ledger.session(self.session)
        for heartbeat_us, bookings in self._in_doubt:
            written_us = self._written[0] + sum(one.us for one in bookings)
            if (there.booked_us, there.heartbeat_us) != (written_us, heartbeat_us):
                continue
            self._written = written_us, heartbeat_us
            for one in bookings:
                us, energy_mj, units = self._pending.pop((one.whose, one.activity))
                rest = us - one.us, energy_mj - one.energy_mj, units - one.units
                if any(rest):
                    self._pending[one.whose, one.activity] = rest
            self._in_doubt.clear()
            return there.is_ended and not self._pending
        return False

    def close(self, activity: Activity = Activity.OVERHEAD) -> None:
        """Books the rest, and ends the session with it: nothing of it is left unbooked."""
        self.book(activity)
        self.flush(is_last=True)

    def _go_on(self) -> None:
        """Goes on under a new session, from the last heartbeat of the one that was ended; what came after is lost."""
        done_us = self._ledger.session(self.session).heartbeat_us
        started_s = self._started_s + done_us / SECOND_US
        # Without a heartbeat: if that fails, and is done all the same, nothing of it counts.
        self.session = self._ledger.open(self._study, self._device, started_s, self.price, self._holder)
        self._started_s, self._start_us = started_s, self._start_us + done_us
        self._mark_us = self._start_us
        self._mark_mj -= sum(energy_mj for _, energy_mj, _ in self._pending.values())
        self._pending.clear()
        self._in_doubt.clear()
        self._written = 0, 0
        self.book(Activity.LOST)
        logger.warning("the worker was taken for dead: what it did since its last heartbeat is booked as lost")

    @contextmanager
    def beating(self, every_s: float = BEAT_S) -> Iterator[None]:
        """Writes from a thread while the block runs, and ends the session after it."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(every_s):
                self._try_to_flush()

        thread = threading.Thread(target=beat, name="meter", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            try:
                self.close()
            except (SQLAlchemyError, StoreError) as error:  # whoever comes next books it as lost
                logger.warning("the last bookings are not written: %s", error)

    def _try_to_flush(self) -> None:
        try:
            with once(self._ledger.engine):
                self.flush()
        except SQLAlchemyError as error:  # the next time may do: nothing is dropped
            logger.warning("bookings were not written yet: %s", error)
