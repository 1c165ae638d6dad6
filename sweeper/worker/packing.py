"""How many trials a worker trains together: what `engine.slots` says, or, with `auto`, what pays here.

That is measured before the first trial: a step of one, and one of several, on adapters that are thrown away. What the
choice promised is held against what the steps of the session took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.schema import Config
from sweeper.errors import OutOfRoomError
from sweeper.events import EventLog
from sweeper.memory.formula import padded
from sweeper.memory.oom import Failure, attempted
from sweeper.money.pace import Pace
from sweeper.money.packing import Packing
from sweeper.preflight.choices import possible_ranks
from sweeper.preflight.forecast import MemoryForecast
from sweeper.search.study import Search
from sweeper.search.views import examples_of
from sweeper.tracking.tracker import STUDY, Tracker
from sweeper.trial import Rhythm
from sweeper.worker.memory import MemoryLog
from sweeper.worker.workbench import Workbench

KEY = "packing"  # of the study's attributes
SEVERAL = 4  # that the larger of the two steps has
TIMES = 3  # that each is timed, after one that is not
LONG_S = 5.0  # after which a step is not repeated


@dataclass
class PackSize:
    """How many trials train together, and what came of it.

    Attributes:
        slots: how many.
        packing: what that was chosen from; None where it was not chosen.
    """

    slots: int
    packing: Packing | None = None
    _alone_s: float = 0.0  # what the steps of this session would have taken one by one
    _together_s: float = 0.0

    def ticked(self, tokens: Sequence[int], seconds: float) -> None:
        """A step of trials with so many tokens each has taken so long."""
        if self.packing is not None:
            self._alone_s += sum(map(self.packing.seconds, tokens))
            self._together_s += seconds

    @property
    def gain(self) -> float | None:
        """How much faster the session's steps were than the same one by one, by what one was measured to take."""
        return self._alone_s / self._together_s if self._together_s else None

    def conclude(self, where: str, search: Search, tracker: Tracker, is_lead: bool) -> None:
        """Keeps what the choice promised beside what it gave.

        Raises:
            StoreError, TrackingError: if that cannot be kept.
        """
        if self.packing is None or self.slots == 1 or self.gain is None:
            return
        _remember(search, where, {"gain": self.gain})
        if is_lead and tracker.has(STUDY):
            predicted = self.packing.speedup(self.slots)
            known = {"throughput/packing_gain": self.gain, "throughput/packing_gain_predicted": predicted}
            tracker.log(STUDY, known, step=examples_of(search.views()))


def _remember(search: Search, where: str, values: dict[str, Any]) -> None:
    """Adds to what is kept of a device, beside what other workers keep of theirs."""
    with search.in_turn:
        kept: dict[str, Any] = search.attributes.get(KEY, {})
        search.remember(KEY, {**kept, where: {**kept.get(where, {}), **values}})


def settled(
    config: Config,
    bench: Workbench,
    log: MemoryLog,
    search: Search,
    events: EventLog,
    where: str,
    pace: Pace,
    must_stop: Callable[[], bool],
) -> PackSize:
    """How many trials train together on this device.

    Args:
        where: the device; what was measured on it before is kept.
        pace: takes in what was measured, for plans.
        must_stop: asked between steps; where it says so, nothing is measured, and nothing will train.
    """
    if config.engine.slots != "auto":
        return PackSize(config.engine.slots)
    most = _most(config, log.forecast)
    before: dict[str, Any] = search.attributes.get(KEY, {}).get(where, {})
    packing = Packing.from_dict(before["packing"]) if before else None
    if packing is None and most > 1:
        packing = _measured(config, bench, log, most, must_stop)
        if packing is None and not must_stop():
            tried = min(SEVERAL, most)
            events.write("note", message=f"engine.slots=auto: one trial at a time, for a step of {tried} did not fit")
    if packing is None:
        return PackSize(1)
    slots = packing.best(most)
    pace.step = packing.fixed_s, packing.token_s
    if (slots, most) != (before.get("slots"), before.get("most")):
        _remember(search, where, {"slots": slots, "most": most, "packing": packing.as_dict()})
        events.write("note", message=f"engine.slots=auto, up to {most}: {packing.in_words(slots)}")
    return PackSize(slots, packing)


def _most(config: Config, forecast: MemoryForecast) -> int:
    """The most that the sampler can use and that memory has room for, of a rank in the middle."""
    rank = padded(_middle(possible_ranks(config)))
    most = config.most_slots
    while most > 1 and forecast.pack_bytes(((rank, most),)) > forecast.budget_bytes:
        most -= 1
    return most


def _middle(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


def _measured(
    config: Config, bench: Workbench, log: MemoryLog, most: int, must_stop: Callable[[], bool]
) -> Packing | None:
    """A step of one trial against one of several; None where that does not fit, or must stop."""
    pack = bench.pack
    params = config.trial_params({"rank": _middle(possible_ranks(config)), "target_modules": log.forecast.widest})
    count = min(params.batch_size, len(pack.examples))
    rows = [place * len(pack.examples) // count for place in range(count)]

    def step(slots: int) -> tuple[float, float]:
        """Its tokens, and the least seconds of a few: what disturbs only adds."""
        rhythm = Rhythm(interval_examples=len(rows), evaluations=1, batch_size=len(rows))
        pack.admit_alike(slots - len(pack.slots), params, rhythm)
        tokens = sum(len(item.tokens) for item in pack.items([rows] * slots))
        taken: list[float] = []
        while len(taken) <= TIMES and sum(taken) < LONG_S:
            if must_stop():
                raise _StoppedError
            started = time.perf_counter()
            pack.rehearse(rows)
            taken.append(time.perf_counter() - started)
        return float(tokens), min(taken[1:] or taken)  # the first is slow for being that

    try:
        done = attempted(lambda: Packing.through(step(1), step(min(SEVERAL, most))))
    except (OutOfRoomError, _StoppedError):
        return None
    finally:
        pack.clear()
        pack.planner.forget_failures()
    return None if isinstance(done, Failure) else done


class _StoppedError(Exception):
    """A stop was asked for in the middle."""
