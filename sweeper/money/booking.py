"""What is booked: who took a device, for how long, and doing what. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from sweeper.money.price import Price
from sweeper.trial import RunKind

SECOND_US = 1_000_000


class Activity(StrEnum):
    """What a worker does with its device."""

    PREFLIGHT = "preflight"  # the launcher's checks before the worker
    LOAD = "load"  # imports, rows, the base; quantising it is part of loading it
    BASELINE = "baseline"
    TRAIN = "train"
    EVALUATE = "evaluate"
    CHECKPOINT = "checkpoint"
    TEST = "test"
    IDLE = "idle"  # waiting for memory, or for another worker's trial
    OVERHEAD = "overhead"  # asking, telling, writing
    LOST = "lost"  # what a worker did since it last booked, when it died


class Whose(NamedTuple):
    """The run that time is spent on; that of no single one is the study's."""

    kind: RunKind
    number: int = 0


STUDY = Whose(RunKind.STUDY)


@dataclass(frozen=True)
class Booking:
    """What one worker spent on one run by one activity.

    Attributes:
        us: microseconds: whole ones, so that the parts of a tick add up to it exactly.
        energy_mj: millijoules that the device took meanwhile; 0 where nothing measures them.
        units: tokens that were trained on, or rows that were scored.
    """

    session: int
    whose: Whose
    activity: Activity
    us: int
    energy_mj: int = 0
    units: int = 0


@dataclass(frozen=True)
class WorkerSession:
    """One worker's hold of one device, from its start to the last that was heard of it.

    Attributes:
        machine: host and boot: the machine as long as it stays up.
        started_s: seconds since 1970.
        booked_us: the sum of its bookings.
        heartbeat_us: from its start to the last that was heard of it; what lies behind `booked_us` is being done, or
            is lost.
        price: None where the study has none.
    """

    id: int
    study: str
    machine: str
    device: str
    started_s: float
    booked_us: int
    heartbeat_us: int
    is_ended: bool
    price: Price | None


def split(total: int, weights: Mapping[Whose, int]) -> dict[Whose, int]:
    """Whole parts of a whole number, in proportion to weights; they add up to it exactly.

    The largest remainders get what rounding down leaves; without any weight the parts are equal.
    """
    if not weights:
        return {STUDY: total}
    known = dict(weights) if any(weights.values()) else dict.fromkeys(weights, 1)
    whole = sum(known.values())
    parts = {whose: total * weight // whole for whose, weight in known.items()}
    by_remainder = sorted(known, key=lambda whose: -(total * known[whose] % whole))
    for whose in by_remainder[: total - sum(parts.values())]:
        parts[whose] += 1
    return parts
