"""The ledger: where every second of every worker went, in the study's database.

A worker opens a session and books what it has done, in whole microseconds. Bookings and their sum are written in one
transaction, which takes effect only where the sum is what the worker knows it to be, so nothing is booked twice; and
what is not booked is known: it is what lies between the sum and the last heartbeat. When a worker has died, or another
one has seen no heartbeat of it for long enough by its own clock, that one books this as `lost` and ends the session. A
worker that was only taken for dead sees that its session has ended, and goes on under a new one, from the last
heartbeat on. What a device took between a dead worker's last booking and its end is measured by nobody: seconds are
lost time, but have no energy.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Engine,
    Float,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    inspect,
    select,
    true,
    update,
)
from sqlalchemy.engine import Connection, Row

from sweeper.money.booking import STUDY, Activity, Booking, Whose, WorkerSession
from sweeper.money.price import Price
from sweeper.search.leases import Holder, Silence
from sweeper.search.patience import in_transaction
from sweeper.search.tables import make
from sweeper.trial import RunKind

_META = MetaData()
_SESSIONS = Table(
    "sweeper_sessions",
    _META,
    Column("id", Integer, primary_key=True),
    Column("study", String(64), nullable=False, index=True),
    Column("holder", String(512), nullable=False),
    Column("machine", String(512), nullable=False, index=True),
    Column("device", String(255), nullable=False),
    Column("started_s", Float(53), nullable=False),  # seconds since 1970, of the worker's clock
    Column("booked_us", BigInteger, nullable=False),
    Column("heartbeat_us", BigInteger, nullable=False),
    # Up to where its trials in flight may take it, since its start: what has passed of that is spent, not reserved.
    Column("reserved_us", BigInteger, nullable=False),
    Column("is_ended", Boolean, nullable=False),
    Column("price", Text, nullable=True),
)
_STANDING = _SESSIONS.c.booked_us, _SESSIONS.c.heartbeat_us
_BOOKINGS = Table(
    "sweeper_bookings",
    _META,
    Column("session", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(32), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("activity", String(32), primary_key=True),
    Column("us", BigInteger, nullable=False),
    Column("energy_mj", BigInteger, nullable=False),
    Column("units", BigInteger, nullable=False),
)


class SessionEndedError(Exception):
    """Somebody has taken the worker for dead, and has ended its session."""


class LateWriteError(Exception):
    """A write of the worker's own that seemed lost has taken effect after all."""


class Ledger:
    """The bookings of a store.

    Args:
        engine: of the database that holds the trials.
        makes_tables: or brings older ones to today's form; whoever only looks changes nothing.
    """

    def __init__(self, engine: Engine, makes_tables: bool = True) -> None:
        self.engine = engine
        self._silence = Silence(engine)
        if makes_tables:
            make(engine, *_META.sorted_tables)

    def open(
        self,
        study: str,
        device: str,
        started_s: float,
        price: Price | None,
        holder: Holder | None = None,
        heartbeat_us: int = 0,
    ) -> int:
        """Opens a session that began at `started_s`, and returns its number.

        Args:
            heartbeat_us: what has passed since; lost if nothing is ever booked.
        """
        who = holder or Holder.this_process()
        values = {
            "study": study,
            "holder": str(who),
            "machine": f"{who.host} {who.boot}",
            "device": device,
            "started_s": started_s,
            "booked_us": 0,
            "heartbeat_us": heartbeat_us,
            "reserved_us": 0,
            "is_ended": False,
            "price": json.dumps(asdict(price)) if price is not None else None,
        }
        attempts = 0

        def begin(connection: Connection) -> int:
            nonlocal attempts
            attempts += 1
            if attempts > 1:  # the one before may have been done
                same = [_SESSIONS.c[name] == values[name] for name in ("study", "holder", "started_s")]
                known: int | None = connection.scalar(
                    select(_SESSIONS.c.id).where(_SESSIONS.c.is_ended.is_(False), *same)
                )
                if known is not None:
                    return known
            [number] = connection.execute(insert(_SESSIONS).values(values)).inserted_primary_key or (0,)
            return int(number)

        return in_transaction(self.engine, begin)

    def book(
        self,
        session: int,
        bookings: Sequence[Booking],
        heartbeat_us: int,
        is_last: bool = False,
        known: tuple[int, int] | None = None,
    ) -> None:
        """Adds bookings to a session, and says that it is alive. A caller who tries again looks first what is booked.

        Args:
            heartbeat_us: since its start; never less than all that is booked.
            is_last: whether the session ends with them.
            known: what is booked of it so far, and its last heartbeat; None: whatever that is.

        Raises:
            SessionEndedError: if it has ended; then nothing is booked.
            LateWriteError: if it stands otherwise than is known; then nothing else is.
            ValueError: if more would be booked than has passed.
        """
        if any(min(one.us, one.energy_mj, one.units) < 0 for one in bookings):
            raise ValueError(f"what is booked must not be negative, but got {bookings}")
        with self.engine.begin() as connection:
            is_known = and_(*map(operator.eq, _STANDING, known)) if known is not None else true()
            if self._add(connection, session, bookings, heartbeat_us, is_last, is_known):
                return
            is_open = and_(_SESSIONS.c.id == session, _SESSIONS.c.is_ended.is_(False))
            standing = connection.execute(select(*_STANDING).where(is_open)).first()
            if standing is None:
                raise SessionEndedError
            if known not in (None, tuple(standing)):
                raise LateWriteError
        raise ValueError(f"no more can be booked than {heartbeat_us} µs, which is what has passed, but got {bookings}")

    def _add(
        self,
        connection: Connection,
        session: int,
        bookings: Sequence[Booking],
        heartbeat_us: int,
        is_last: bool,
        condition: ColumnElement[bool],
    ) -> bool:
        """Adds bookings to a session that is open and fulfils the condition; whether it was.

        The session's row is changed first: whoever changes it holds it until the end of the transaction.
        """
        added_us = sum(one.us for one in bookings)
        changes = {
            "booked_us": _SESSIONS.c.booked_us + added_us,
            "heartbeat_us": heartbeat_us,
            "is_ended": is_last,
            **({"reserved_us": 0} if is_last else {}),
        }
        fits = and_(
            _SESSIONS.c.id == session,
            _SESSIONS.c.is_ended.is_(False),
            _SESSIONS.c.booked_us + added_us <= heartbeat_us,
            _SESSIONS.c.heartbeat_us <= heartbeat_us,
        )
        if not connection.execute(update(_SESSIONS).where(fits, condition).values(changes)).rowcount:
            return False
        for one in bookings:
            key = {
                "session": session,
                "kind": one.whose.kind.value,
                "number": one.whose.number,
                "activity": one.activity.value,
            }
            sizes = {"us": one.us, "energy_mj": one.energy_mj, "units": one.units}
            here = and_(*(_BOOKINGS.c[name] == value for name, value in key.items()))
            more = {name: _BOOKINGS.c[name] + size for name, size in sizes.items()}
            if not connection.execute(update(_BOOKINGS).where(here).values(more)).rowcount:
                connection.execute(insert(_BOOKINGS).values({**key, **sizes}))
        return True

    def settle(self, silent_s: float) -> list[int]:
        """Ends the sessions of workers that are gone; what they had not booked is lost.

        Args:
            silent_s: a worker is taken for gone whose heartbeat this ledger, asked again and again, has not seen change
                for so long.

        Returns:
            Their numbers.
        """
        settled = []
        for row in self._rows(_SESSIONS.c.is_ended.is_(False)):
            if self._silence.of(row.id, row.heartbeat_us) < silent_s and not Holder.parse(row.holder).is_gone:
                continue
            # A worker that has written meanwhile has a later heartbeat, which this one does not fit; of several that
            # settle it, one does.
            lost = Booking(row.id, STUDY, Activity.LOST, row.heartbeat_us - row.booked_us)
            bookings = [lost] if lost.us else []
            add = partial(
                self._add,
                session=row.id,
                bookings=bookings,
                heartbeat_us=row.heartbeat_us,
                is_last=True,
                condition=_SESSIONS.c.booked_us == row.booked_us,
            )
            if in_transaction(self.engine, add):
                settled.append(row.id)
        return settled

    def reserve(self, session: int, until_us: int) -> None:
        """Says up to where the trials of a session may take it.

        Args:
            until_us: since its start, as its heartbeat is: so what it does of them is not counted twice.
        """
        is_open = and_(_SESSIONS.c.id == session, _SESSIONS.c.is_ended.is_(False))
        change = update(_SESSIONS).where(is_open).values({"reserved_us": until_us})
        in_transaction(self.engine, lambda connection: connection.execute(change))

    def reserved_us(self, study: str) -> dict[int, int]:
        """What each open session of a study may still take beyond its last heartbeat, by what it has reserved."""
        rows = self._rows(and_(_SESSIONS.c.study == study, _SESSIONS.c.is_ended.is_(False)))
        return {row.id: max(0, row.reserved_us - row.heartbeat_us) for row in rows}

    def sessions(self, study: str) -> list[WorkerSession]:
        """The sessions of a study, and all others on its machines: what is paid for a machine, they share."""
        own = select(_SESSIONS.c.machine).where(_SESSIONS.c.study == study)
        return [_session(row) for row in self._rows(_SESSIONS.c.machine.in_(own))]

    def session(self, number: int) -> WorkerSession:
        """One session."""
        [row] = self._rows(_SESSIONS.c.id == number)
        return _session(row)

    def bookings(self, study: str) -> list[Booking]:
        """All that is booked of a study."""
        return self._bookings(_BOOKINGS.c.session.in_(select(_SESSIONS.c.id).where(_SESSIONS.c.study == study)))

    def bookings_of(self, study: str, whose: Whose) -> list[Booking]:
        """What is booked of one run of a study."""
        own = select(_SESSIONS.c.id).where(_SESSIONS.c.study == study)
        is_its = and_(_BOOKINGS.c.kind == whose.kind.value, _BOOKINGS.c.number == whose.number)
        return self._bookings(and_(_BOOKINGS.c.session.in_(own), is_its))

    def sums(self, study: str) -> list[Booking]:
        """What is booked of a study, as one booking for each of its sessions."""
        return self._sums(_BOOKINGS.c.session.in_(select(_SESSIONS.c.id).where(_SESSIONS.c.study == study)))

    def everything(self) -> tuple[list[WorkerSession], list[Booking]]:
        """The sessions of all studies, and what is booked of each, as one booking: what a sum takes, in two queries."""
        sums = self._sums(true())
        return [_session(row) for row in self._rows(true())], sums

    def drop(self, study: str) -> None:
        """Deletes what is booked of a study that is deleted."""
        own = select(_SESSIONS.c.id).where(_SESSIONS.c.study == study)

        def delete_all(connection: Connection) -> None:
            connection.execute(delete(_BOOKINGS).where(_BOOKINGS.c.session.in_(own)))
            connection.execute(delete(_SESSIONS).where(_SESSIONS.c.study == study))

        in_transaction(self.engine, delete_all)

    def _bookings(self, condition: ColumnElement[bool]) -> list[Booking]:
        rows = self._all(select(_BOOKINGS).where(condition))
        return [
            Booking(
                session=row.session,
                whose=Whose(RunKind(row.kind), row.number),
                activity=Activity(row.activity),
                us=row.us,
                energy_mj=row.energy_mj,
                units=row.units,
            )
            for row in rows
        ]

    def _sums(self, condition: ColumnElement[bool]) -> list[Booking]:
        columns = [_BOOKINGS.c.session, *(func.sum(_BOOKINGS.c[name]).label(name) for name in ("us", "energy_mj"))]
        rows = self._all(select(*columns).where(condition).group_by(_BOOKINGS.c.session))
        return [Booking(row.session, STUDY, Activity.OVERHEAD, int(row.us), int(row.energy_mj)) for row in rows]

    def _rows(self, condition: Any) -> Sequence[Row[Any]]:
        return self._all(select(_SESSIONS).where(condition).order_by(_SESSIONS.c.id))

    def _all(self, query: Select[Any]) -> Sequence[Row[Any]]:
        return in_transaction(self.engine, lambda connection: connection.execute(query).all())


def has_ledger(engine: Engine) -> bool:
    """Whether anything was ever booked in a database; whoever only reads must not make the tables."""
    return inspect(engine).has_table(_BOOKINGS.name)


def _session(row: Row[Any]) -> WorkerSession:
    return WorkerSession(
        id=row.id,
        study=row.study,
        machine=row.machine,
        device=row.device,
        started_s=row.started_s,
        booked_us=row.booked_us,
        heartbeat_us=row.heartbeat_us,
        is_ended=bool(row.is_ended),
        price=Price(**json.loads(row.price)) if row.price is not None else None,
    )
