"""The account of a study for whoever looks at it: its bill by label, trial, activity and session. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sweeper.money.apart import Apart
from sweeper.money.bill import DEAD_ENDS, SCORING, USEFUL, Bill, Label, known_sum, usd_per_second
from sweeper.money.booking import SECOND_US, Activity, WorkerSession
from sweeper.money.price import HOUR_S, Price
from sweeper.trial import RunKind
from sweeper.units import usd_text

BOOT = "boot"  # billed before the machine could be used
COLUMNS = ("run", "number", "label", "activity", "session", "seconds", "usd", "energy_j", "energy_usd", "units")


@dataclass(frozen=True)
class TrialCost:
    """What one trial cost.

    Attributes:
        solo_s: what it takes alone on the device, without set-up; None where it was not trained, or not measured.
        solo_usd: at the price that the study has now.
    """

    number: int
    state: str
    label: Label
    params: dict[str, Any]
    bill: Bill
    solo_s: float | None
    solo_usd: float | None

    @property
    def train_s(self) -> float:
        return self.bill.of_activity(Activity.TRAIN).seconds

    @property
    def eval_s(self) -> float:
        return self.bill.of_activity(*SCORING).seconds

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "state": self.state,
            "label": self.label.value,
            "params": self.params,
            **self.cost(),
        }

    def cost(self) -> dict[str, Any]:
        """Seconds and dollars alone."""
        return {
            "usd": self.bill.usd,
            "seconds": self.bill.seconds,
            "unpriced_s": self.bill.unpriced_s,
            "train_s": self.train_s,
            "eval_s": self.eval_s,
            "usd_energy": self.bill.energy_usd,
            "solo_s": self.solo_s,
            "usd_solo": self.solo_usd,
        }


@dataclass(frozen=True)
class Statement:
    """All that was booked of a study.

    Attributes:
        sessions: of the study.
        trials: all of them, by number.
        price: of the study's settings as they are now.
        in_progress: of each session that has not ended, what lies between its bookings and the last that was heard of
            it, in seconds and dollars.
        apart: the same trials with a process for each; None where that was not measured.
    """

    study: str
    bill: Bill
    sessions: tuple[WorkerSession, ...]
    trials: tuple[TrialCost, ...]
    price: Price | None
    in_progress: dict[int, tuple[float, float | None]]
    apart: Apart | None

    @property
    def is_empty(self) -> bool:
        return not self.sessions

    def trial(self, number: int) -> TrialCost:
        return self._by_number[number]

    @cached_property
    def _by_number(self) -> dict[int, TrialCost]:
        return {trial.number: trial for trial in self.trials}

    @property
    def useful_share(self) -> float:
        """Of winner, other complete trials and what tells which is best."""
        return self.bill.share(self.bill.of(*USEFUL))

    def sentence(self) -> str:
        """Such as `$0.0123 in 0.06 device hours: 24% winner, 51% other complete trials, 25% overhead`."""
        bill = self.bill
        parts = {
            "winner": (Label.WINNER,),
            "other complete trials": (Label.COMPLETED,),
            "dead ends": DEAD_ENDS,
            "unfinished trials": (Label.UNFINISHED,),
            "confirmation": (Label.CONFIRMATION,),
            "learning curve": (Label.LEARNING_CURVE,),
            "overhead": (Label.OVERHEAD,),
        }
        shares = {name: bill.share(bill.of(*labels)) for name, labels in parts.items()}
        words = ", ".join(f"{percent(share)} {name}" for name, share in shares.items() if share > 0)
        return f"{sum_in_words(bill)}: {words}" if words else sum_in_words(bill)

    def as_dict(self) -> dict[str, Any]:
        """`sweeper cost --json`."""
        return {
            "study": self.study,
            **self.summary(),
            "activities": {name: self._part(part) for name, part in self.by_activity().items()},
            "trials": [trial.as_dict() for trial in self.trials],
            "sessions": [self._session(session) for session in self.sessions],
        }

    def summary(self) -> dict[str, Any]:
        """What `status --json` has of it."""
        bill = self.bill
        return {
            "usd": bill.usd,
            "seconds": bill.seconds,
            "unpriced_s": bill.unpriced_s,
            "energy_j": bill.energy_j,
            "usd_energy": bill.energy_usd,
            "price": self.price.in_words() if self.price is not None else None,
            "useful_share": self.useful_share,
            "in_progress": {
                "usd": known_sum(usd for _, usd in self.in_progress.values()),
                "seconds": sum(seconds for seconds, _ in self.in_progress.values()),
            },
            "labels": {label.value: self._part(part) for label, part in bill.by_label().items()},
            "one_process_each": self._apart(),
        }

    def by_activity(self) -> dict[str, Bill]:
        """A bill for each activity that there is."""
        found = {activity.value: self.bill.of_activity(activity) for activity in Activity}
        found[BOOT] = Bill(tuple(line for line in self.bill.lines if line.activity is None))
        return {name: part for name, part in found.items() if part.lines}

    def csv(self) -> str:
        """Every line of the bill; a cell is empty where its value is not known."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for line in self.bill.lines:
            number = line.whose.number if line.whose.kind is not RunKind.STUDY else None
            activity = BOOT if line.activity is None else line.activity.value
            sizes = (line.seconds, line.usd, line.energy_j, line.energy_usd, line.units)
            writer.writerow((line.whose.kind.value, number, line.label.value, activity, line.session, *sizes))
        return text.getvalue()

    def _part(self, part: Bill) -> dict[str, Any]:
        return {"usd": part.usd, "seconds": part.seconds, "share": self.bill.share(part)}

    def _apart(self) -> dict[str, Any] | None:
        if self.apart is None:
            return None
        usd, packed_usd = (
            self.price.usd(seconds) if self.price is not None else None
            for seconds in (self.apart.seconds, self.apart.packed_s)
        )
        return {**self.apart.as_dict(), "usd": usd, "packed_usd": packed_usd}

    def _session(self, session: WorkerSession) -> dict[str, Any]:
        own = self.bill.of_session(session.id)
        return {
            "session": session.id,
            "started": started(session).isoformat(timespec="seconds"),
            "device": session.device,
            "price": session.price.in_words() if session.price is not None else None,
            "usd": own.usd,
            "seconds": own.seconds,
            "is_ended": session.is_ended,
            "lost_s": own.of(Label.LOST).seconds,
            "in_progress_s": self.in_progress.get(session.id, (0.0, None))[0],
        }


def started(session: WorkerSession) -> datetime:
    return datetime.fromtimestamp(session.started_s, UTC)


def in_progress(sessions: Sequence[WorkerSession], study: str) -> dict[int, tuple[float, float | None]]:
    """What the open sessions of a study have not booked yet, in seconds and dollars without electricity.

    Args:
        sessions: of the study, and all others on the same machines.
    """
    rates = usd_per_second(sessions)
    found = {}
    for one in sessions:
        if one.study == study and not one.is_ended:
            seconds = (one.heartbeat_us - one.booked_us) / SECOND_US
            found[one.id] = seconds, seconds * rates[one.id] if one.price is not None else None
    return found


def percent(share: float) -> str:
    """Such as `24%`; never 0% for what is some."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def sum_in_words(bill: Bill) -> str:
    """Such as `$0.0123 in 0.06 device hours`; time without a price is said, and is no zero."""
    hours = bill.seconds / HOUR_S
    time = f"{hours:,.1f} device hours" if hours >= 10 else f"{hours:.2g} device hours"
    if hours < 0.01:
        time = f"{bill.seconds:.1f} device seconds"
    if bill.usd is None:
        return f"{time}, without a price"
    unpriced = f", {bill.unpriced_s:,.0f} s of them without a price" if bill.unpriced_s else ""
    return f"{usd_text(bill.usd)} in {time}{unpriced}"
