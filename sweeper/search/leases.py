"""Who works on which trial: leases in the study's database.

A worker holds a lease on each of its trials and renews them all from a thread. A lease that was not
renewed for `duration_s`, or whose holder is a process of this machine that is gone, can be taken by
another worker. Taking is one conditional UPDATE, so of several that try, one gets it. Times are the
database's clock: workers need not agree on theirs.

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
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    inspect,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

logger = logging.getLogger(__name__)
_WAIT_S = 0.02
RENEWALS = 4  # in the time after which a lease that is not renewed expires
_LEASES = Table(
    "sweeper_leases",
    MetaData(),
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(512), nullable=False),
    Column("expires_s", Float(53), nullable=False),  # seconds since 1970, of the database's clock
    Column("renewals", BigInteger, nullable=False),
)
NOW = {  # seconds since 1970, of the database's clock
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "EXTRACT(EPOCH FROM clock_timestamp())",
}


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


class Leases:
    """The leases of one worker.

    Args:
        engine: of the database that holds the trials.
        duration_s: after so long without a renewal, a lease can be taken.
        holder: who takes them.
    """

    def __init__(self, engine: Engine, duration_s: float, holder: Holder | None = None) -> None:
        self._engine = engine
        self._duration_s = duration_s
        self._holder = str(holder or Holder.this_process())
        self._now: Any = literal_column(NOW[engine.dialect.name])
        try:
            _LEASES.metadata.create_all(engine)
        except SQLAlchemyError:
            if not inspect(engine).has_table(_LEASES.name):  # else another worker was faster
                raise

    def acquire(self, trial_id: int) -> bool:
        """Takes the lease on a trial that has none, an expired one, or one of a process that is gone.

        Returns:
            False where another worker has it.
        """
        gone = {holder for holder in self._holders(trial_id) if Holder.parse(holder).is_gone}
        is_free = or_(
            _LEASES.c.expires_s < self._now,
            _LEASES.c.holder == self._holder,
            _LEASES.c.holder.in_(gone),
        )
        if self._update(_LEASES.c.trial_id == trial_id, is_free):
            return True
        values = {"trial_id": trial_id, "holder": self._holder, "expires_s": self._expires, "renewals": 0}
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_LEASES).values(values))
        except IntegrityError:
            return False
        return True

    def renew(self, trial_id: int) -> bool:
        """Prolongs a lease of this worker's; False where it has been taken away."""
        return self._update(_LEASES.c.trial_id == trial_id, _LEASES.c.holder == self._holder)

    def renew_all(self) -> None:
        """Prolongs every lease that this worker has."""
        self._update(_LEASES.c.holder == self._holder)

    def seen(self, trial_id: int) -> tuple[Holder, int] | None:
        """Who has a lease, and how often it was prolonged; None where nobody has."""
        with self._engine.connect() as connection:
            row = connection.execute(select(_LEASES).where(_LEASES.c.trial_id == trial_id)).first()
        return (Holder.parse(row.holder), row.renewals) if row is not None else None

    def release(self, trial_id: int) -> None:
        """Gives a lease back."""
        with self._engine.begin() as connection:
            connection.execute(delete(_LEASES).where(_LEASES.c.trial_id == trial_id, _LEASES.c.holder == self._holder))

    def forget(self, trial_id: int) -> None:
        """Deletes the lease on a trial that nobody needs any more, whoever had it."""
        with self._engine.begin() as connection:
            connection.execute(delete(_LEASES).where(_LEASES.c.trial_id == trial_id))

    @contextmanager
    def exclusively(self, key: int) -> Iterator[None]:
        """Waits until no other worker is in such a block of the same key; a key is no trial's id."""
        while not self.acquire(key):
            time.sleep(_WAIT_S)
        try:
            yield
        finally:
            self.release(key)

    @property
    def _expires(self) -> Any:
        return self._now + self._duration_s

    def _holders(self, trial_id: int) -> list[str]:
        with self._engine.connect() as connection:
            return list(connection.scalars(select(_LEASES.c.holder).where(_LEASES.c.trial_id == trial_id)))

    def _update(self, *conditions: Any) -> bool:
        """The compare-and-set: takes effect only where the conditions hold at that moment."""
        changes = {"holder": self._holder, "expires_s": self._expires, "renewals": _LEASES.c.renewals + 1}
        with self._engine.begin() as connection:
            return connection.execute(update(_LEASES).where(*conditions).values(changes)).rowcount > 0


@contextmanager
def renewing(leases: Leases, duration_s: float) -> Iterator[None]:
    """Renews a worker's leases from a thread while the block runs, whatever it is busy with."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(duration_s / RENEWALS):
            try:
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
