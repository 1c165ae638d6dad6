"""A figure that is not known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A low, a likely and a high figure."""

    low: float
    likely: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def each(self, change: Callable[[float], float]) -> Span:
        return Span(change(self.low), change(self.likely), change(self.high))

    def in_words(self, text: Callable[[float], str]) -> str:
        return f"{text(self.likely)} ({text(self.low)} to {text(self.high)})"


ZERO = Span(0.0, 0.0, 0.0)
