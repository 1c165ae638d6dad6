"""How many trials a worker trains together: what `engine.slots` says, or, with `auto`, what pays here.

That is measured before the first trial: a step of one, and one of several, on adapters that are thrown away. What the
choice promised is held against what the steps of the session took.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.schema import Config
from sweeper.engine.pack import Slot
from sweeper.errors import LostRoomError, OutOfRoomError
from sweeper.events import EventLog
from sweeper.memory.formula import padded
from sweeper.memory.oom import Failure, attempted
from sweeper.money.pace import Pace
from sweeper.money.packing import Packing
from sweeper.preflight.forecast import MemoryForecast, possible_ranks
from sweeper.search.study import Search
from sweeper.search.views import examples_of
from sweeper.tracking.tracker import STUDY, Tracker
from sweeper.trial import Rhythm, TrialParams
from sweeper.worker.memory import MemoryLog
from sweeper.worker.workbench import Workbench

KEY = "packing"  # of the study's attributes
SEVERAL = 4  # that the larger of the two steps has
TIMES = 3  # that each is timed, after one that is not


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

    def conclude(self, search: Search, tracker: Tracker) -> None:
        """Keeps what the choice promised beside what it gave."""
        if self.packing is None or self.slots == 1 or self.gain is None or not tracker.has(STUDY):
            return
        predicted = self.packing.speedup(self.slots)
        search.remember(KEY, {**search.attributes.get(KEY, {}), "gain": self.gain})
        known = {"throughput/packing_gain": self.gain, "throughput/packing_gain_predicted": predicted}
        tracker.log(STUDY, known, step=examples_of(search.views()))


def settled(
    config: Config, bench: Workbench, log: MemoryLog, search: Search, events: EventLog, where: str, pace: Pace
) -> PackSize:
    """How many trials train together on this device.

    Args:
        where: the device; what was chosen on it before is kept.
        pace: takes in what was measured, for plans.
    """
    if config.engine.slots != "auto":
        return PackSize(config.engine.slots)
    most = _most(config, log.forecast)
    before: dict[str, Any] = search.attributes.get(KEY, {})
    if before.get("where") == where and before["slots"] <= most:
        return PackSize(before["slots"], Packing.from_dict(before["packing"]))
    packing = _measured(config, bench, log) if most > 1 else None
    if packing is None:
        return PackSize(1)
    slots = packing.best(most)
    search.remember(KEY, {"where": where, "slots": slots, "most": most, "packing": packing.as_dict()})
    pace.step = packing.fixed_s, packing.token_s
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


def _measured(config: Config, bench: Workbench, log: MemoryLog) -> Packing | None:
    """A step of one trial against one of several; None where that does not fit."""
    pack, forecast = bench.pack, log.forecast
    params = config.trial_params({"rank": _middle(possible_ranks(config)), "target_modules": forecast.widest})
    count = min(params.batch_size, len(pack.examples))
    rows = [place * len(pack.examples) // count for place in range(count)]

    def seconds(slots: int) -> tuple[float, float]:
        rhythm = Rhythm(interval_examples=len(rows), evaluations=1, batch_size=len(rows))
        _fill(bench, slots, params, rhythm)
        taken = []
        for _ in range(1 + TIMES):
            started = time.perf_counter()
            pack.rehearse(rows)
            taken.append(time.perf_counter() - started)
        return float(slots * sum(len(pack.example(row)) for row in rows)), min(taken[1:])  # what disturbs only adds

    def work() -> Packing:
        one = seconds(1)
        return Packing.through(one, seconds(min(SEVERAL, config.most_slots)))

    try:
        done = attempted(work)
    except (OutOfRoomError, LostRoomError):
        return None
    finally:
        pack.slots = []
        pack.stack.clear()
    return None if isinstance(done, Failure) else done


def _fill(bench: Workbench, slots: int, params: TrialParams, rhythm: Rhythm) -> None:
    """New slots beside those that are there, up to so many."""
    pack = bench.pack
    while len(pack.slots) < slots:
        slot: Slot
        slot, state = pack.new_slot(-1 - len(pack.slots), params, rhythm, seed=0)
        pack.admit(slot, state)
