"""How many trials are best trained together, from what a step takes.

A step takes t(n) = t0 + n/R for n tokens: t0 whatever its size (launching kernels, dequantising), R once it computes.
K trials of T tokens each then train S(K) = K·t(T)/t(K·T) = K(1 + ρ)/(K + ρ) times as fast as one after the other, with
ρ = t0·R/T. That is much where steps are small, and nothing where one trial alone keeps the device busy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LEAST_GAIN = 1.05  # below, trials go one by one: then each ask knows all results before it
KNEE = 0.9  # of the speed-up of the most that may train together


@dataclass(frozen=True)
class Packing:
    """A step as a line over its tokens.

    Attributes:
        fixed_s: what it takes whatever its size.
        token_s: what each token adds.
        tokens: of one trial's step.
    """

    fixed_s: float
    token_s: float
    tokens: float

    @classmethod
    def through(cls, one: tuple[float, float], many: tuple[float, float]) -> Packing:
        """From the tokens and seconds of one trial's step, and of that of several."""
        slope = max(0.0, (many[1] - one[1]) / (many[0] - one[0]))
        fixed = one[1] - slope * one[0]
        if fixed < 0:  # a larger step took more than in proportion
            return cls(0.0, one[1] / one[0], one[0])
        return cls(fixed, slope, one[0])

    def seconds(self, tokens: float) -> float:
        return self.fixed_s + self.token_s * tokens

    def speedup(self, slots: int) -> float:
        """How much faster so many trials train together than one after the other."""
        return slots * self.seconds(self.tokens) / self.seconds(slots * self.tokens)

    def best(self, most: int) -> int:
        """How many of at most `most`: the fewest with nearly the speed-up of all; 1 where that is too little."""
        highest = self.speedup(most)
        if highest < LEAST_GAIN:
            return 1
        return next(slots for slots in range(1, most + 1) if self.speedup(slots) >= KNEE * highest)

    def in_words(self, slots: int) -> str:
        """What so many together promise."""
        rate = f"{1 / self.token_s:,.0f} tokens/s" if self.token_s else "no more for each token"
        step = f"{1000 * self.fixed_s:.3g} ms for any step, then {rate}; one trial's has {self.tokens:,.0f} tokens"
        if slots == 1:
            return f"one trial at a time: more together would gain less than {LEAST_GAIN - 1:.0%} ({step})"
        return f"{slots} trials together train {self.speedup(slots):.2f} times as fast as one by one ({step})"

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Packing:
        return cls(**values)
