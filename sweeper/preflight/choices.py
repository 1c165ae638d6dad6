"""What the trials of a study may be, by its search space: ranks, target modules, dropout. Loads no torch.

A parameter with a condition does not exist beside every choice; where it does not, the fixed value of `lora` or `train`
holds, which is then one more that a trial may have.
"""

from __future__ import annotations

from typing import Any

from sweeper.config.schema import Config
from sweeper.config.space import Range, bounds, condition_of, grid_values, values_of


def fixed(config: Config, name: str) -> list[Any]:
    """The fixed value of a parameter, where a trial may have it; else nothing."""
    searched = config.search.space.get(name)
    if searched is not None and not condition_of(searched):
        return []
    return [getattr(config.lora if name in type(config.lora).model_fields else config.train, name)]


def values(config: Config, name: str, points: int) -> list[Any]:
    """The values of a parameter; of a range without a step so many points of it, and the fixed one."""
    searched = config.search.space.get(name)
    found = grid_values(name, searched, points) if searched is not None else []
    return list(dict.fromkeys([*found, *fixed(config, name)]))


def ranks(config: Config) -> tuple[int, int]:
    """The lowest and the highest rank that a study may try."""
    searched = config.search.space.get("rank")
    known = [*fixed(config, "rank"), *(map(int, bounds(searched)) if searched is not None else ())]
    return min(known), max(known)


def possible_ranks(config: Config) -> list[int]:
    """Every rank that a study may try."""
    searched = config.search.space.get("rank")
    if isinstance(searched, Range):
        found = set(range(int(searched.low), int(searched.high) + 1, int(searched.step or 1)))
    else:
        found = {int(str(value)) for value in (values_of(searched) if searched is not None else None) or []}
    return sorted(found.union(fixed(config, "rank")))


def target_choices(config: Config) -> tuple[str | tuple[str, ...], ...]:
    """All choices of target modules that a study has."""
    searched = config.search.space.get("target_modules")
    chosen: list[Any] = list((values_of(searched) if searched is not None else None) or [])
    meant = [config.lora.modules(choice) for choice in [*chosen, *fixed(config, "target_modules")]]
    return tuple(dict.fromkeys(choice if isinstance(choice, tuple) else str(choice) for choice in meant))


def has_dropout(config: Config) -> bool:
    """Whether any trial of a study may have dropout."""
    searched = config.search.space.get("dropout")
    return config.lora.dropout > 0 or (searched is not None and bounds(searched)[1] > 0)
