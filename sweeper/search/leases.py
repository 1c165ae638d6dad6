"""Who works on which trial: leases in the study's database.

A worker holds a lease on each of its trials and renews them all from a thread. Another worker takes it once it has
itself seen for `duration_s` that nobody renews it, by a clock of its own process that only goes forward, or at once if
the holder is a process of this machine that is gone. So no clock is compared with another's, and one that jumps ends no
lease. Taking is one conditional UPDATE on what was seen, so of several that try, one gets it.

Optuna's own heartbeats do nothing for a study that is asked and told.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sweeper.search.patience import in_transaction, once, patience_of, patient
from sweeper.search.tables import make

logger = logging.getLogger(__name__)
_WAIT_S = 0.02
RENEWALS = 4  # in the time after which a lease that is not renewed expires
_LEASES = Table(
    "sweeper_leases",
    MetaData(),
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(512), nullable=False),
    Column("renewals", BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Holder:
    """A process, so that another one of the same machine can tell whether it still runs."""

    host: str
    boot: str  # of the machine, and of the namespace in which the process has its number
    pid: int
    started_s: float

    @classmethod
    def this_process(cls) -> Holder:
        return cls(socket.gethostname(), _boot(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str) -> Holder:
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def is_here(self) -> bool:
        """Whether the process is, or was, one of this machine since it started, in this namespace."""
        return (self.host, self.boot) == (socket.gethostname(), _boot())

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended; False where this machine cannot know."""
        if not self.is_here:
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started_s) > 1)
        except psutil.NoSuchProcess:
            return True


@cache
def _boot() -> str:
    marks = []
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(file)
        if path.is_symlink():
            marks.append(os.readlink(path))
        elif path.is_file():
            marks.append(path.read_text().strip())
    return " ".join(marks) or str(psutil.boot_time())


class Silence:
    """For how long this process has seen that something in a database does not change.

    It begins anew where the database was away meanwhile: then nobody could have changed it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: dict[int, tuple[Any, float, int]] = {}

    def of(self, key: int, state: Any) -> float:
        """The seconds since `key` was first seen in this state; whoever calls has just looked."""
        patience = patience_of(self._engine)
        now_s, outages = time.monotonic(), patience.outages if patience is not None else 0
        known, since_s, outages_then = self._seen.get(key, (None, now_s, outages))
        if (known, outages_then) != (state, outages):
            since_s = now_s
        self._seen[key] = (state, since_s, outages)
        return now_s - since_s

    def forget(self, key: int) -> None:
        self._seen.pop(key, None)


class Leases:
    """The leases of one worker.

    Args:
        engine: of the database that holds the trials.
        duration_s: whoever has seen a lease for so long without a renewal can take it.
        holder: who takes them.
    """

    def __init__(self, engine: Engine, duration_s: float, holder: Holder | None = None) -> None:
        self.engine = engine
        self._duration_s = duration_s
        self._holder = str(holder or Holder.this_process())
        self._silence = Silence(engine)
        make(engine, _LEASES)

    def acquire(self, trial_id: int) -> bool:
        """Takes the lease on a trial that has none, one that was not renewed, or one of a process that is gone.

        Returns:
            False where another worker has it.
        """
        return patient(self.engine, partial(self._acquire, trial_id))

    def _acquire(self, trial_id: int) -> bool:
        here = _LEASES.c.trial_id == trial_id
        with self.engine.connect() as connection:
            found = connection.execute(select(_LEASES).where(here)).first()
        if found is None:
            values = {"trial_id": trial_id, "holder": self._holder, "renewals": 0}
            try:
                with self.engine.begin() as connection:
                    connection.execute(insert(_LEASES).values(values))
            except IntegrityError:
                return False
            return True
        if found.holder == self._holder:
            return self._update(here, _LEASES.c.holder == self._holder)
        silent_s = self._silence.of(trial_id, (found.holder, found.renewals))
        if silent_s < self._duration_s and not Holder.parse(found.holder).is_gone:
            return False
        self._silence.forget(trial_id)
        return self._update(here, _LEASES.c.holder == found.holder, _LEASES.c.renewals == found.renewals)

    def renew(self, trial_id: int) -> bool:
        """Prolongs a lease of this worker's; False where it has been taken away."""
        return self._update(_LEASES.c.trial_id == trial_id, _LEASES.c.holder == self._holder)

    def renew_all(self) -> None:
        """Prolongs every lease that this worker has."""
        self._update(_LEASES.c.holder == self._holder)

    def seen(self, trial_id: int) -> tuple[Holder, int] | None:
        """Who has a lease, and how often it was prolonged; None where nobody has."""
        return patient(self.engine, partial(self._seen, trial_id))

    def _seen(self, trial_id: int) -> tuple[Holder, int] | None:
        with self.engine.connect() as connection:
            row = connection.execute(select(_LEASES).where(_LEASES.c.trial_id == trial_id)).first()
        return (Holder.parse(row.holder), row.renewals) if row is not None else None

    def release(self, trial_id: int) -> None:
        """Gives a lease back."""
        self._delete(_LEASES.c.trial_id == trial_id, _LEASES.c.holder == self._holder)

    def forget(self, trial_id: int) -> None:
        """Deletes the lease on a trial that nobody needs any more, whoever had it."""
        self._delete(_LEASES.c.trial_id == trial_id)

    @contextmanager
    def exclusively(self, key: int) -> Iterator[None]:
        """Waits until no other worker is in such a block of the same key; a key is no trial's id."""
        while not self.acquire(key):
            time.sleep(_WAIT_S)
        try:
            yield
        finally:
            self.release(key)

    def _update(self, *conditions: Any) -> bool:
        """The compare-and-set: takes effect only where the conditions hold at that moment."""

        def take(connection: Connection) -> bool:
            changes = {"holder": self._holder, "renewals": _LEASES.c.renewals + 1}
            return connection.execute(update(_LEASES).where(*conditions).values(changes)).rowcount > 0

        return in_transaction(self.engine, take)

    def _delete(self, *conditions: Any) -> None:
        in_transaction(self.engine, lambda connection: connection.execute(delete(_LEASES).where(*conditions)))


@contextmanager
def renewing(leases: Leases, duration_s: float) -> Iterator[None]:
    """Renews a worker's leases from a thread while the block runs, whatever it is busy with."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(duration_s / RENEWALS):
            try:
                with once(leases.engine):
                    leases.renew_all()
            except SQLAlchemyError as error:  # the next time may do; a lease that is lost is noticed before tell
                logger.warning("leases were not renewed: %s", error)

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
