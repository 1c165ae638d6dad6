"""Which of several configurations is the best, each trained on several seeds: a winner, or a tie. Pure.

What a difference may be due to is the rows, and the seeds. The rows are drawn again, the same ones for all candidates
(the paired bootstrap). Of two or three seeds there is little to draw from: their variance is that within all candidates
together, and what its being an estimate adds is Student's t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TAILS = (2.5, 97.5)  # percentiles: an interval of 95 %
# A leader that is surer to be better than this is chosen, though a cheaper one is tied with it: the interval of two
# seeds is wide. It is the probability of one standard error (Breiman et al. 1984, the 1 SE rule).
SURE = 0.8413
LEAST_DRAWS = 20  # of the rows, that an interval is of
_NOISE = 20  # of the seeds, for each draw of the rows
LIKE = 0.05  # times that differ by less are as long: what a device takes is not known better than that


@dataclass(frozen=True)
class Candidate:
    """One configuration.

    Attributes:
        values: `(seeds,)`: the metric of the training on each seed.
        draws: `(seeds, draws)`: the same on rows that are drawn again; the same draws for all candidates.
        cost: compared from its first number on; less is cheaper.
    """

    number: int
    values: Array
    draws: Array
    cost: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(self.values.mean())


@dataclass(frozen=True)
class Versus:
    """The leader against another candidate.

    Attributes:
        difference: of the means, above zero where the leader is better.
        low, high: the difference's interval of 95 %.
        probability: that the leader is better.
    """

    trial: int
    difference: float
    low: float
    high: float
    probability: float

    @property
    def is_tied(self) -> bool:
        return self.low <= 0

    @property
    def is_close(self) -> bool:
        """Whether the other one may be chosen for being cheaper."""
        return self.is_tied and self.probability <= SURE

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "is_tied": self.is_tied}


@dataclass(frozen=True)
class Choice:
    """The outcome.

    Attributes:
        leader: the candidate with the best mean.
        chosen: the cheapest of those that are within a standard error of it.
    """

    leader: int
    chosen: int
    versus: list[Versus]

    @property
    def tied(self) -> list[int]:
        """Those that cannot be told from the chosen one."""
        able = [self.leader, *(one.trial for one in self.versus if one.is_tied)]
        return [number for number in able if number != self.chosen]


def choose(candidates: Sequence[Candidate], is_minimized: bool, seed: int = 0) -> Choice:
    """Compares the best mean with each of the others.

    Args:
        candidates: one at least, each of as many seeds.
    """
    sign = -1.0 if is_minimized else 1.0
    order = sorted(candidates, key=lambda one: (-sign * one.mean, one.cost))
    leader, noise = order[0], _noise(order, seed)
    versus = []
    for other in order[1:]:
        differences = sign * (leader.draws.mean(0) - other.draws.mean(0))
        is_known = np.isfinite(differences)
        if is_known.sum() < LEAST_DRAWS:  # of a metric that has no value on most draws: nothing is claimed
            continue
        drawn = differences[is_known, None] + noise[is_known]
        low, high = np.percentile(drawn, TAILS)
        probability = float(np.mean(drawn > 0) + np.mean(drawn == 0) / 2)
        versus.append(Versus(other.number, sign * (leader.mean - other.mean), float(low), float(high), probability))
    able = {leader.number, *(one.trial for one in versus if one.is_close)}
    chosen = min((one for one in order if one.number in able), key=lambda one: one.cost)  # of equals the better
    return Choice(leader.number, chosen.number, versus)


def cost_classes(seconds: Sequence[float]) -> list[int]:
    """The place of each time among those that differ by more than `LIKE`: 0 for the shortest and what is as long."""
    classes: dict[float, int] = {}
    first, place = 0.0, -1
    for value in sorted(seconds):
        if place < 0 or value > first * (1 + LIKE):
            first, place = value, place + 1
        classes[value] = place
    return [classes[value] for value in seconds]


def _noise(candidates: Sequence[Candidate], seed: int) -> Array:
    """What the seeds may add to a difference of two means, `(draws, _NOISE)`; nothing where there is one seed."""
    seeds, draws = candidates[0].draws.shape
    noise: Array = np.zeros((draws, _NOISE))
    if seeds > 1:
        freedom = len(candidates) * (seeds - 1)
        variance = float(np.mean([one.values.var(ddof=1) for one in candidates]))
        noise = np.sqrt(2 * variance / seeds) * np.random.default_rng(seed).standard_t(freedom, size=noise.shape)
    return noise
