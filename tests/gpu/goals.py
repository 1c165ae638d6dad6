"""What follows from the times: a line through them, the speed-ups that it foretells, and how far the goals are met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LEAST_POINTS = 3


@dataclass(frozen=True)
class Line:
    """t(n) = t0 + n / R: what a step costs before its first token, and the rate of tokens after that."""

    intercept_s: float
    s_per_token: float

    @classmethod
    def through(cls, points: Iterable[tuple[int, float]]) -> Line:
        """By least squares over (tokens, seconds), with neither part below zero, which no device can do."""
        tokens, seconds = zip(*points, strict=True)
        if len(set(tokens)) < 2:
            return cls(statistics.fmean(seconds), 0.0)
        slope, intercept = statistics.linear_regression(tokens, seconds)
        if slope < 0:
            return cls(statistics.fmean(seconds), 0.0)
        if intercept < 0:
            return cls(0.0, statistics.linear_regression(tokens, seconds, proportional=True).slope)
        return cls(intercept, slope)

    def step_s(self, tokens: int) -> float:
        return self.intercept_s + tokens * self.s_per_token

    def speedup(self, slots: int, tokens: int) -> float:
        """S(K, T), were a pack of K a single trial that reads K times as much."""
        return slots * self.step_s(tokens) / self.step_s(slots * tokens)

    def as_dict(self) -> dict[str, Any]:
        """`tokens_per_s` is None where more tokens took no longer: the rate is beyond what was measured."""
        return {
            "intercept_s": round(self.intercept_s, 6),
            "tokens_per_s": round(1 / self.s_per_token, 1) if self.s_per_token else None,
        }


def foretold(packs: list[dict[str, Any]], steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of the part `packs` with what a line through single trials says of them, and these lines.

    A line goes through the rows of the part `steps` where there are enough, else through the single trials of the
    pairs: never through a pack, so that it can be wrong.
    """
    fits, rows = [], [dict(row) for row in packs]
    for shape, is_checkpointed in sorted({_kind(row) for row in packs if "speedup" in row}):
        own = [row for row in rows if "speedup" in row and _kind(row) == (shape, is_checkpointed)]
        points = {row["tokens"]: row["step_s"] for row in steps if "step_s" in row and _kind(row) == _kind(own[0])}
        of = "steps"
        if len(points) < LEAST_POINTS:
            of = "packs"
            each: dict[int, list[float]] = {}
            for row in own:
                each.setdefault(row["slot_tokens"], []).append(row["solo_s"])
            points = {tokens: statistics.median(seconds) for tokens, seconds in each.items()}
        if len(points) < LEAST_POINTS:
            continue
        line = Line.through(points.items())
        for row in own:
            row["predicted_speedup"] = round(line.speedup(row["slots"], row["slot_tokens"]), 4)
            row["speedup_error"] = round(row["predicted_speedup"] / row["speedup"] - 1, 4)
        fits.append(
            {
                "shape": shape,
                "is_checkpointed": is_checkpointed,
                "of": of,
                "points": len(points),
                **line.as_dict(),
                "worst_error": max((round(line.step_s(n) / s - 1, 4) for n, s in points.items()), key=abs),
                "cells": len(own),
                "mean_absolute_speedup_error": round(statistics.fmean(abs(row["speedup_error"]) for row in own), 4),
            }
        )
    return {"fits": fits, "rows": rows}


def _kind(row: dict[str, Any]) -> tuple[str, bool]:
    return row["shape"], row["is_checkpointed"]


@dataclass(frozen=True)
class Goal:
    """A goal for the card: each of its cells is to reach the floor, and better the target."""

    name: str
    figure: str  # of a row of `packs`
    shapes: tuple[str, ...]
    slots: tuple[int, ...]
    tokens: tuple[int, ...]  # of each slot
    floor: float
    target: float | None


_SHORT: dict[str, tuple[int, ...]] = {"slots": (8, 16), "tokens": (128, 256)}
GOALS = (
    Goal("speed-up of 7-8B in NF4, T 128-256, K 8-16", "speedup", ("8b",), **_SHORT, floor=2.0, target=3.5),
    Goal("speed-up of 1-1.5B in NF4, T 128-256, K 8-16", "speedup", ("1.5b",), **_SHORT, floor=3.0, target=6.0),
    Goal("never slower, T 4096, K 2-4", "speedup", ("0.5b", "1.5b", "8b"), (2, 4), (4096,), floor=0.97, target=None),
    Goal("utilisation of 7-8B in NF4, T 128-256, K 8-16", "utilisation", ("8b",), **_SHORT, floor=0.35, target=0.5),
    Goal("utilisation of 1-1.5B in NF4, T 128-256, K 8-16", "utilisation", ("1.5b",), **_SHORT, floor=0.35, target=0.5),
)


def table(packs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each goal beside what was found: the lowest and the highest of its cells, None where none was measured."""
    return [_found(goal, packs) for goal in GOALS]


def _found(goal: Goal, packs: list[dict[str, Any]]) -> dict[str, Any]:
    values = [
        row[goal.figure]
        for row in packs
        if row["shape"] in goal.shapes
        and row["slots"] in goal.slots
        and row["slot_tokens"] in goal.tokens
        and goal.figure in row
    ]
    count = len(goal.shapes) * len(goal.slots) * len(goal.tokens)

    def is_met(wanted: float | None) -> bool | None:
        """One cell below settles it; that none is below takes all of them."""
        if wanted is None or not values:
            return None
        if min(values) < wanted:
            return False
        return True if len(values) == count else None

    return {
        "goal": goal.name,
        "figure": goal.figure,
        "floor": goal.floor,
        "target": goal.target,
        "cells": count,
        "measured": len(values),
        "lowest": min(values, default=None),
        "highest": max(values, default=None),
        "is_floor_met": is_met(goal.floor),
        "is_target_met": is_met(goal.target),
    }
