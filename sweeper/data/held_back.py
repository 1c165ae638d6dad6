"""Which validation rows the search scores, and which are held back to confirm its winner.

What a search has chosen by is no fair judge of its choice: the best of many trials is in part the luckiest on them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.config.schema import Config
from sweeper.data import splits
from sweeper.data.row import Row
from sweeper.data.rows import stratified
from sweeper.errors import DataError

_CONFIRMATION = "confirmation"


@dataclass(frozen=True)
class Validation:
    """The validation rows in two parts.

    Attributes:
        scored: by the search, at every evaluation.
        held_back: never scored by it; none where there are too few to cut.
    """

    scored: list[Row]
    held_back: list[Row]


def of(rows: list[Row], config: Config) -> Validation:
    """Holds `confirmation.share` of the validation rows back, once and for ever the same ones.

    Rows that `evaluation.rows` leaves unread are held back first; only where these are fewer than the share is some of
    what the search would read cut away, by label and by group.
    """
    seed, group, share = config.train.seed, config.data.group, config.confirmation.share
    scored = stratified(rows, config.evaluation.rows, seed)
    read = {row.place for row in scored}
    unread = [row for row in rows if row.place not in read]
    # The same customer, or the same question, must not be scored by both.
    units = {splits.unit_of(row, group) for row in scored}
    unread = [row for row in unread if splits.unit_of(row, group) not in units]
    if len(unread) >= share * len(rows):
        return Validation(scored, unread)
    try:
        parts = splits.cut(rows, {_CONFIRMATION: share}, group, seed)
    except DataError:  # too few rows, or groups
        return Validation(scored, [])
    return Validation(stratified(parts[splits.TRAIN], config.evaluation.rows, seed), parts[_CONFIRMATION])
