"""How long things take on a device: measured by every worker, kept in the store, read by plans and by the budget."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sweeper.paths import write_atomically

KEEP = 200.0  # ticks and scorings that are remembered: what is older fades, so that a change of the machine shows
LEAST_TICKS = 4  # before a line is fitted; until then it goes through the origin
SURE = 3.0  # standard errors that an intercept must be above zero to count


@dataclass
class Fit:
    """Seconds as a line over a size: sums of what was seen.

    The intercept is what a step takes whatever its size (launching kernels, the optimizer), the slope what each unit
    adds. Neither is ever below zero. Trials that share their steps share the intercept, so that one which noise alone
    has made would promise a packed study that is too cheap: it counts only where it is sure.
    """

    count: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def add(self, size: float, seconds: float) -> None:
        if self.count >= KEEP:
            for one in fields(self):
                setattr(self, one.name, getattr(self, one.name) * (1 - 1 / KEEP))
        self.count += 1
        self.x, self.y = self.x + size, self.y + seconds
        self.xx, self.xy, self.yy = self.xx + size * size, self.xy + size * seconds, self.yy + seconds * seconds

    @property
    def is_known(self) -> bool:
        return self.count > 0 and self.x > 0

    def line(self) -> tuple[float, float]:
        """Intercept and slope, in seconds and in seconds for each unit."""
        if not self.is_known:
            raise ValueError("nothing was measured yet")
        spread = self.xx - self.x * self.x / self.count
        through_origin = 0.0, self.xy / self.xx
        # Sizes that are all alike say nothing of the slope.
        if self.count < LEAST_TICKS or spread <= 1e-3 * self.xx:
            return through_origin
        together = self.xy - self.x * self.y / self.count
        slope = together / spread
        intercept = (self.y - slope * self.x) / self.count
        left = max(0.0, self.yy - self.y * self.y / self.count - slope * together)  # squares, around the line
        error = math.sqrt(left / (self.count - 2) * self.xx / (self.count * spread))
        if intercept <= SURE * error:
            return through_origin
        return (intercept, slope) if slope > 0 else (self.y / self.count, 0.0)

    def seconds(self, size: float, steps: float = 1.0) -> float:
        """What `steps` steps take that have `size` units in all."""
        intercept, slope = self.line()
        return intercept * steps + slope * size


@dataclass
class Pace:
    """What a worker's work takes on one device with one base.

    Attributes:
        setup_s: from the start of a worker until it can train, the untuned base not scored; None: not measured.
        tick: an optimizer step of the whole pack, over its training tokens.
        rows: scoring rows of the task, over their number, for each adapter that reads them.
        items: scoring items of the retention suite, likewise.
        step: what a step takes whatever its size, and what each token adds, in seconds, as measured side by side for
            `engine.slots=auto`; None: not measured.
    """

    setup_s: float | None = None
    tick: Fit = field(default_factory=Fit)
    rows: Fit = field(default_factory=Fit)
    items: Fit = field(default_factory=Fit)
    step: tuple[float, float] | None = None

    @property
    def is_known(self) -> bool:
        """Whether a trial's length can be told from it."""
        return self.tick.is_known and self.rows.is_known

    def training_s(self, steps: float, tokens: float) -> float:
        """What so many steps with so many tokens in all take a trial that is alone."""
        return self.tick.seconds(tokens, steps)

    def scoring_s(self, rows: float, items: float = 0.0, times: float = 1.0) -> float:
        """What scoring so many rows and retention items in all takes, in so many goes."""
        of_items = self.items.seconds(items, times) if items and self.items.is_known else 0.0
        return (self.rows.seconds(rows, times) if rows else 0.0) + of_items

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Pace:
        parts = {name: Fit(**values[name]) for name in ("tick", "rows", "items")}
        step = values.get("step")  # stores from before it was measured have none
        return cls(setup_s=values["setup_s"], step=(float(step[0]), float(step[1])) if step else None, **parts)


def key(model: str, dtype: str, quant: str, device: str, threads: int | None, task: str) -> str:
    """What a pace belongs to, as a file name."""
    words = f"{model} {quant} {dtype} {device} {task}" + (f" {threads} threads" if threads is not None else "")
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in words)


def known_pace(folder: Path, name: str) -> Pace | None:
    """What was measured before; None where nothing was, or it cannot be read: the next worker measures again."""
    try:
        found = Pace.from_dict(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sizes = [size for part in (found.tick, found.rows, found.items) for size in asdict(part).values()]
    return found if all(math.isfinite(size) and size >= 0 for size in [*sizes, *(found.step or ())]) else None


def keep_pace(folder: Path, name: str, pace: Pace) -> None:
    """Keeps what was measured for the next plan."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", json.dumps(pace.as_dict(), indent=1))
