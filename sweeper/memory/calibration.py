"""How far the predictions of earlier steps were off on this device, kept in the store.

A ratio is what a step took beyond what was held before it, over what had been predicted for it. It belongs to a
device, its driver, the versions of what allocates, and the attention kernel: another of these is another ratio.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sweeper.paths import write_atomically

KEPT = 512  # ratios, the latest
ENOUGH = 16  # ratios that say more than the margin does
DEVIATIONS = 3.0  # above the mean: a normal error passes that once in 700 steps, and the rescue stands behind it
_ALLOCATING = ("torch", "transformers", "bitsandbytes")


@dataclass(frozen=True)
class Machine:
    """What a ratio belongs to."""

    device: str
    driver: str
    attention: str
    dtype: str

    def key(self) -> dict[str, str]:
        versions = {name: importlib.metadata.version(name) for name in _ALLOCATING}
        return {
            "device": self.device,
            "driver": self.driver,
            "attention": self.attention,
            "dtype": self.dtype,
            **versions,
        }


@dataclass
class Calibration:
    """The ratios of one machine.

    Attributes:
        margin: what a prediction is raised by while there are not enough ratios.
        file: where they are kept; None: nowhere.
    """

    margin: float
    machine: Machine | None = None
    file: Path | None = None
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    @classmethod
    def load(cls, margin: float, machine: Machine, folder: Path) -> Calibration:
        """As earlier studies of the store left it."""
        name = hashlib.sha256(json.dumps(machine.key(), sort_keys=True).encode()).hexdigest()[:24]
        made = cls(margin, machine, folder / f"calibration-{name}.json")
        assert made.file is not None
        # Without a file, or with a damaged one, it begins anew: the margin stands for what was lost.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            made.ratios.extend(map(float, json.loads(made.file.read_text(encoding="utf-8"))["ratios"]))
        return made

    def observe(self, predicted_bytes: float, measured_bytes: float) -> None:
        """Takes one step in."""
        if predicted_bytes > 0:
            self.ratios.append(max(0.0, measured_bytes) / predicted_bytes)

    def factor(self) -> float:
        """What a prediction is to be multiplied with to be an upper bound."""
        if len(self.ratios) < ENOUGH:
            return max(1.0 + self.margin, *self.ratios) if self.ratios else 1.0 + self.margin
        # numpy's, since this is asked for every part of a step, and the exact sums of `statistics` take a millisecond.
        ratios = np.fromiter(self.ratios, float)
        bound = float(ratios.mean() + DEVIATIONS * ratios.std())
        # Steps that took much less than predicted were small ones, whose fixed parts weigh most.
        return max(1.0, bound, *self.ratios)

    def save(self) -> None:
        if self.file is not None and self.machine is not None and self.ratios:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps({**self.machine.key(), "ratios": list(self.ratios)}))
