"""The bill of a study: every second that was booked, with a label and its dollars. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

from sweeper.money.booking import SECOND_US, STUDY, Activity, Booking, Whose, WorkerSession
from sweeper.money.price import HOUR_S, KWH_J
from sweeper.trial import RunKind

SCORING = (Activity.EVALUATE, Activity.TEST, Activity.BASELINE)


class Label(StrEnum):
    """What came of a second."""

    WINNER = "winner"
    COMPLETED = "completed"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    UNFINISHED = "unfinished"  # a trial that has not ended
    CONFIRMATION = "confirmation"
    LEARNING_CURVE = "learning-curve"
    OVERHEAD = "overhead"
    LOST = "lost"


DEAD_ENDS = (Label.PRUNED, Label.INFEASIBLE, Label.FAILED, Label.LOST)
USEFUL = (Label.WINNER, Label.COMPLETED, Label.CONFIRMATION, Label.LEARNING_CURVE)  # what the answer rests on


@dataclass(frozen=True)
class Line:
    """One booking with its price.

    Attributes:
        usd: all that it cost; None where its session has no price.
        energy_usd: the part of it that is electricity; None where that is in the price, or nothing measures it.
    """

    label: Label
    whose: Whose
    activity: Activity | None  # None: billed before the machine could be used
    seconds: float
    energy_j: float
    units: int
    usd: float | None
    energy_usd: float | None
    session: int


@dataclass(frozen=True)
class Bill:
    """The lines of one study, or some of them."""

    lines: tuple[Line, ...]

    def of(self, *labels: Label) -> Bill:
        return Bill(tuple(line for line in self.lines if line.label in labels))

    def of_run(self, whose: Whose) -> Bill:
        return Bill(tuple(self._by_run.get(whose, ())))

    @cached_property
    def _by_run(self) -> dict[Whose, list[Line]]:
        found: dict[Whose, list[Line]] = defaultdict(list)
        for line in self.lines:
            found[line.whose].append(line)
        return found

    def of_activity(self, *activities: Activity) -> Bill:
        return Bill(tuple(line for line in self.lines if line.activity in activities))

    def of_session(self, number: int) -> Bill:
        return Bill(tuple(line for line in self.lines if line.session == number))

    @property
    def seconds(self) -> float:
        return sum(line.seconds for line in self.lines)

    @property
    def worked_s(self) -> float:
        """Seconds of workers, without the booting before them: what `budget.hours` limits, and what draws electricity
        that is measured."""
        return sum(line.seconds for line in self.lines if line.activity is not None)

    @property
    def usd(self) -> float | None:
        """Dollars of all lines that have a price; None where none has: never a zero for what is not known."""
        return known_sum(line.usd for line in self.lines)

    @property
    def energy_usd(self) -> float | None:
        return known_sum(line.energy_usd for line in self.lines)

    @property
    def energy_j(self) -> float:
        return sum(line.energy_j for line in self.lines)

    @property
    def unpriced_s(self) -> float:
        """Seconds that have no price."""
        return sum(line.seconds for line in self.lines if line.usd is None)

    @property
    def is_in_dollars(self) -> bool:
        """Whether its parts can be compared by their dollars: all have a price, and not all are free."""
        return bool(self.usd) and not self.unpriced_s

    def share(self, part: Bill) -> float:
        """How much of it a part is: by dollars where they can be compared, else by seconds."""
        own, of = (part.usd or 0.0, self.usd) if self.is_in_dollars else (part.seconds, self.seconds)
        return own / of if of else 0.0

    def by_label(self) -> dict[Label, Bill]:
        """A bill for each label that there is, in the order of `Label`."""
        return {label: part for label in Label if (part := self.of(label)).lines}

    def metrics(self, prefix: str = "cost/") -> dict[str, float]:
        """What MLflow shows of it; dollars only where there is a price."""
        found = {
            "usd": self.usd,
            "usd_train": self.of_activity(Activity.TRAIN).usd,
            "usd_eval": self.of_activity(*SCORING).usd,
            "usd_energy": self.energy_usd,
        }
        known = {f"{prefix}{name}": value for name, value in found.items() if value is not None}
        return {f"{prefix}device_s": self.seconds, **known}


def bill(
    study: str,
    sessions: Sequence[WorkerSession],
    bookings: Sequence[Booking],
    label: Callable[[Whose, Activity], Label],
) -> Bill:
    """The bill of a study.

    Args:
        sessions: of the study, and all others on the same machines.
        bookings: of the study.
        label: what came of the time of a run.
    """
    own = {session.id for session in sessions if session.study == study}
    return Bill(tuple(line for line in lines_of(sessions, bookings, label) if line.session in own))


def lines_of(
    sessions: Sequence[WorkerSession], bookings: Sequence[Booking], label: Callable[[Whose, Activity], Label]
) -> list[Line]:
    """What was booked in sessions of whatever studies, priced.

    Args:
        sessions: all that there were on their machines.
    """
    known = {session.id: session for session in sessions}
    rates = usd_per_second(sessions)
    lines = []
    for one in bookings:
        session, seconds, energy_j = known[one.session], one.us / SECOND_US, one.energy_mj / 1000
        usd = energy_usd = None
        if session.price is not None:
            if session.price.tariff_usd_per_kwh is not None:
                energy_usd = energy_j / KWH_J * session.price.tariff_usd_per_kwh
            usd = seconds * rates[session.id] + (energy_usd or 0.0)
        lines.append(
            Line(
                label=label(one.whose, one.activity),
                whose=one.whose,
                activity=one.activity,
                seconds=seconds,
                energy_j=energy_j,
                units=one.units,
                usd=usd,
                energy_usd=energy_usd,
                session=session.id,
            )
        )
    return lines + _boots(sessions)


def usd_per_second(sessions: Sequence[WorkerSession]) -> dict[int, float]:
    """What a second of each session costs, without electricity.

    What is paid for a machine as a whole is shared by the workers that are on it at the same time, each moment by
    itself; a session's seconds all have its mean.
    """
    machines: dict[str, list[WorkerSession]] = defaultdict(list)
    for session in sessions:
        machines[session.machine].append(session)
    rates = {}
    for together in machines.values():
        shares = _shared_seconds(together)
        for session in together:
            if (price := session.price) is None:
                continue
            length = session.heartbeat_us / SECOND_US
            share = shares[session.id] / length if length else 1.0
            of_device = price.usd_per_hour * (share if price.is_per_machine else 1.0)
            rates[session.id] = (of_device + price.disk_usd_per_hour * share) / HOUR_S
    return rates


def _shared_seconds(sessions: Sequence[WorkerSession]) -> dict[int, float]:
    """Each session's part of the time in which any of them ran: a moment that several share is split evenly."""
    edges = []
    for one in sessions:
        edges += [(one.started_s, True, one.id), (one.started_s + one.heartbeat_us / SECOND_US, False, one.id)]
    edges.sort(key=lambda edge: edge[0])
    shares = {one.id: 0.0 for one in sessions}
    here: set[int] = set()
    for (start, is_start, number), (end, _, _) in pairwise([*edges, edges[-1]]):
        (here.add if is_start else here.discard)(number)
        for other in here:
            shares[other] += (end - start) / len(here)
    return shares


def _boots(sessions: Sequence[WorkerSession]) -> list[Line]:
    """What was billed before each machine could be used, with the first session after it booted.

    Where each device has its price, each that was worked on was billed meanwhile; the disk once.
    """
    lines = []
    booted: dict[str, set[str]] = defaultdict(set)  # devices of each machine, or all of it as ""
    for session in sorted(sessions, key=lambda one: (one.started_s, one.id)):
        price, before = session.price, booted[session.machine]
        if price is None or not price.boot_s:
            continue
        if "" in before or session.device in before or (price.is_per_machine and before):
            continue
        disk_usd_per_hour = 0.0 if before else price.disk_usd_per_hour
        usd = (price.usd_per_hour + disk_usd_per_hour) * price.boot_s / HOUR_S
        lines.append(Line(Label.OVERHEAD, STUDY, None, price.boot_s, 0.0, 0, usd, None, session.id))
        before.add("" if price.is_per_machine else session.device)
    return lines


def labels(trials: Mapping[int, Label]) -> Callable[[Whose, Activity], Label]:
    """The label of time by its run, and by its activity where that is the study's.

    Args:
        trials: what came of each trial.
    """

    def label(whose: Whose, activity: Activity) -> Label:
        if activity is Activity.LOST:
            return Label.LOST
        match whose.kind:
            case RunKind.TRIAL:
                return trials.get(whose.number, Label.UNFINISHED)
            case RunKind.CONFIRMATION:
                return Label.CONFIRMATION
            case RunKind.LEARNING_CURVE:
                return Label.LEARNING_CURVE
        return Label.OVERHEAD

    return label


def known_sum(values: Iterable[float | None]) -> float | None:
    """The sum of those that are known; None where none is: never a zero for what is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
