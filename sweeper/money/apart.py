"""What the trials of a study would have cost with a process for each, beside what they have cost packed. Pure.

Alone, each trial sets up by itself what the pack shares: it imports, loads and quantises the base; and each of its
steps launches every kernel for itself. What both ways need once, such as the baseline and the confirmation, is in
neither. What a worker took to ask, to tell and to write is in the packed side alone, which speaks against packing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.money.bill import Bill
from sweeper.money.booking import STUDY, Activity, Whose
from sweeper.trial import RunKind

# What the study's own time goes to that a trial alone would have too, each for itself.
SHARED = (Activity.PREFLIGHT, Activity.LOAD, Activity.CHECKPOINT, Activity.IDLE, Activity.OVERHEAD)


@dataclass(frozen=True)
class Apart:
    """An estimate.

    Attributes:
        trials: that were trained, as far as they came.
        setup_s: of one process until it can train, as it was measured.
        alone_s: what training and scoring all of them takes, each alone, from the measured pace.
        packed_s: what they took here, with what they shared.
    """

    trials: int
    setup_s: float
    alone_s: float
    packed_s: float

    @property
    def seconds(self) -> float:
        """Of one process each."""
        return self.trials * self.setup_s + self.alone_s

    @property
    def factor(self) -> float:
        """How many times as long as packed; below one where packing did not pay."""
        return self.seconds / self.packed_s

    def as_dict(self) -> dict[str, Any]:
        return {
            "is_estimate": True,
            "trials": self.trials,
            "setup_s": self.setup_s,
            "alone_s": self.alone_s,
            "seconds": self.seconds,
            "packed_s": self.packed_s,
            "factor": self.factor,
        }


def apart(bill: Bill, solo_s: Mapping[int, float], setup_s: float | None) -> Apart | None:
    """What one process each would have taken; None where that was not measured.

    Args:
        solo_s: of each trial that was trained, what that takes it alone, without set-up, as far as it came.
        setup_s: of a process until it can train, the untuned base not scored.
    """
    own = [bill.of_run(Whose(RunKind.TRIAL, number)) for number in solo_s]
    packed_s = sum(part.seconds for part in own) + bill.of_run(STUDY).of_activity(*SHARED).seconds
    if setup_s is None or not solo_s or packed_s <= 0:
        return None
    return Apart(len(solo_s), setup_s, sum(solo_s.values()), packed_s)
