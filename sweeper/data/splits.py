"""Cuts validation and test rows out of the training rows, once: the study keeps which row went where.

Each label keeps its share in every split. Rows of one group stay together, so that nothing of a person, a document or
a conversation is trained on and scored at the same time; without groups, those that ask the same do.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.config.teaching import SplitsSection
from sweeper.data.likeness import question_of
from sweeper.data.row import Row
from sweeper.errors import DataError
from sweeper.paths import write_atomically

TRAIN = "train"
_SHOWN = 5


def cut(rows: Sequence[Row], shares: Mapping[str, float], group: str | None, seed: int) -> dict[str, list[Row]]:
    """Cuts `shares` of the rows away from those that are trained on; rows keep their order.

    Each unit (rows that ask the same, or those of one group; large ones first) goes where its labels are still missing
    most.

    Raises:
        DataError: if a split would be empty.
    """
    wanted = {TRAIN: 1 - sum(shares.values()), **shares}
    units: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        units.setdefault(unit_of(row, group), []).append(index)
    order = list(units.values())
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)

    totals = Counter(row.label for row in rows)
    missing = {split: {label: share * count for label, count in totals.items()} for split, share in wanted.items()}
    open_rows = {split: share * len(rows) for split, share in wanted.items()}
    chosen: dict[str, list[int]] = {split: [] for split in wanted}
    for unit in order:
        labels = Counter(rows[index].label for index in unit)

        def need(split: str, labels: Counter[str] = labels) -> tuple[float, float]:
            by_label = sum(count * missing[split][label] for label, count in labels.items())
            # Where labels do not tell, as with labels of a few rows, the split that is filled least.
            return round(by_label, 9), open_rows[split] / (wanted[split] * len(rows))

        split = max(wanted, key=need)
        chosen[split] += unit
        open_rows[split] -= len(unit)
        for label, count in labels.items():
            missing[split][label] -= count
    if empty := [split for split, indices in chosen.items() if not indices]:
        units_name = "different rows" if group is None else "groups"
        raise DataError(
            f"each split must have rows, but {len(order)} {units_name} are too few to cut "
            f"{', '.join(f'{share:.0%} for {split}' for split, share in shares.items())}: {', '.join(empty)} is empty"
        )
    return {split: [rows[index] for index in sorted(indices)] for split, indices in chosen.items()}


def shares_of(section: SplitsSection) -> dict[str, float]:
    """The splits that are cut from the training rows, with their shares."""
    named = {"validation": section.validation, "test": section.test}
    return {split: float(share) for split, share in named.items() if not isinstance(share, str)}


def unit_of(row: Row, group: str | None) -> str:
    """What the rows have in common that stay together: their group, or what they ask; raises as `group_of` does."""
    return question_of(row) if group is None else group_of(row, group)


def group_of(row: Row, group: str) -> str:
    """The group of a row.

    Raises:
        DataError: if it has none.
    """
    value: Any = row.columns.get(group)
    if value is None or value == "":
        raise DataError(f"{row.place}: data.group: each row must have a group in `{group}`, but this has {value!r}")
    return str(value)


def check_groups(splits: Mapping[str, Sequence[Row]], group: str) -> None:
    """Refuses splits that share a group.

    Raises:
        DataError: naming rows of the same group.
    """
    first: dict[str, tuple[str, str]] = {}
    shared: dict[str, str] = {}
    for split, rows in splits.items():
        for row in rows:
            name = group_of(row, group)
            there, place = first.setdefault(name, (split, row.place))
            if there != split:
                shared.setdefault(name, f"{place} ({there}) and {row.place} ({split})")
    if shared:
        raise DataError(
            f"a group of `{group}` must be in one split, but {len(shared)} are in two: "
            f"{'; '.join(list(shared.values())[:_SHOWN])}{'; …' if len(shared) > _SHOWN else ''}",
            code="shared-groups",
        )


def keep(splits: Mapping[str, Sequence[Row]], file: Path) -> None:
    """Writes which row is in which split, by the rows' places (`train.jsonl:17`)."""
    write_atomically(file, json.dumps({split: [row.place for row in rows] for split, rows in splits.items()}, indent=1))


def recall(rows: Sequence[Row], file: Path) -> dict[str, list[Row]]:
    """The rows in the splits that were kept.

    Raises:
        DataError: if they are no longer the same rows.
    """
    places: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    split_of = {place: split for split, kept in places.items() for place in kept}
    found: dict[str, list[Row]] = {split: [] for split in places}
    there = {row.place for row in rows}
    if there != set(split_of):
        strange = sorted(there ^ set(split_of))
        raise DataError(
            f"the rows must be those that were split when the study began ({file}), but {len(strange)} came or went: "
            f"{', '.join(strange[:_SHOWN])}{', …' if len(strange) > _SHOWN else ''}. "
            "study.name=NEW starts another study"
        )
    for row in rows:
        found[split_of[row.place]].append(row)
    return found
