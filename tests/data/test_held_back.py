"""Which validation rows are held back: those that the search leaves unread first, by label and by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from sweeper.config.schema import Config
from sweeper.data import held_back
from sweeper.data.row import Row
from sweeper.data.rows import stratified


def rows(count: int, per_customer: int = 1) -> list[Row]:
    return [
        Row(place=f"v:{n}", text=str(n), label="ab"[n % 2], columns={"customer": str(n // per_customer)})
        for n in range(count)
    ]


def settings(config: Config, share: float, read: int | None, group: str | None = None) -> Config:
    return config.model_copy(
        update={
            "confirmation": config.confirmation.model_copy(update={"share": share}),
            "evaluation": config.evaluation.model_copy(update={"rows": read}),
            "data": config.data.model_copy(update={"group": group}),
        }
    )


@pytest.mark.parametrize(
    ("read", "scored", "held"),
    [
        (24, 24, 76),  # what is left unread is enough
        (60, 60, 40),
        (61, 60, 40),  # it is not: the share is cut
        (None, 60, 40),
        (500, 60, 40),
    ],
)
def test_unread_rows_come_first(composed_once: Callable[..., Config], read: int | None, scored: int, held: int) -> None:
    config, all_rows = settings(composed_once("study=demo"), 0.4, read), rows(100)
    found = held_back.of(all_rows, config)
    assert (len(found.scored), len(found.held_back)) == (scored, held)
    assert {row.place for row in found.scored} | {row.place for row in found.held_back} == {r.place for r in all_rows}
    assert found == held_back.of(all_rows, config)
    for part in (found.scored, found.held_back):
        assert Counter(row.label for row in part) == {"a": len(part) // 2, "b": len(part) // 2}
    if read is not None and read <= 60:  # the search reads what it would read without
        assert found.scored == stratified(all_rows, read, config.train.seed)


@pytest.mark.parametrize("read", [20, None])
def test_no_group_is_scored_by_both(composed_once: Callable[..., Config], read: int | None) -> None:
    config, all_rows = settings(composed_once("study=demo"), 0.4, read, group="customer"), rows(100, per_customer=5)
    found = held_back.of(all_rows, config)
    groups = [{row.columns["customer"] for row in part} for part in (found.scored, found.held_back)]
    assert groups[0] & groups[1] == set()
    assert min(len(found.scored), len(found.held_back)) >= 20


@pytest.mark.parametrize("read", [40, None])
def test_no_question_is_scored_by_both(composed_once: Callable[..., Config], read: int | None) -> None:
    pairs = [Row(f"{'Please' if n % 2 else 'please'} stop {n // 2}", "ab"[n // 2 % 2], f"v:{n}") for n in range(100)]
    found = held_back.of(pairs, settings(composed_once("study=demo"), 0.3, read))
    asked = [{row.text.casefold() for row in part} for part in (found.scored, found.held_back)]
    assert asked[0] & asked[1] == set()
    assert min(map(len, asked)) >= 15


def test_a_row_cannot_be_cut(composed_once: Callable[..., Config]) -> None:
    found = held_back.of(rows(1), settings(composed_once("study=demo"), 0.4, None))
    assert (len(found.scored), found.held_back) == (1, [])
