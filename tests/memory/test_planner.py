from __future__ import annotations

import pytest

from sweeper.memory import planner
from sweeper.memory.planner import ATTENTION_SHARE, Load, Planner, Work

LENGTHS = [100, 60, 20, 10, 10]  # the longest first
PROFILE = ((8, 1),)


def test_without_padding_rows_take_what_they_have() -> None:
    padded = Planner().part(Work.TRAIN, LENGTHS, PROFILE, 200)
    assert padded.rows == 2
    unpadded = Planner().part(Work.TRAIN, LENGTHS, PROFILE, 200, is_padded=False)
    assert unpadded.rows == 5
    assert Planner().part(Work.TRAIN, LENGTHS, PROFILE, 180, is_padded=False).rows == 3
    assert Planner().part(Work.TRAIN, LENGTHS, PROFILE, 50, is_padded=False).rows == 1  # one at least


def test_a_load_is_what_goes_through_a_layer() -> None:
    assert Load(Work.TRAIN, rows=4, seq=50).tokens == 200
    assert Load(Work.TRAIN, rows=4, seq=50, unpadded=200).tokens == 200
    # Attention lays rows side by side that are at most twice as long as one another.
    assert Load(Work.TRAIN, rows=4, seq=50, unpadded=160).tokens == 160 + int(ATTENTION_SHARE * 40)
    assert Load(Work.TRAIN, rows=4, seq=500, unpadded=600).tokens == 600 + int(ATTENTION_SHARE * 600)


@pytest.mark.parametrize("is_padded", [True, False])
def test_what_ran_out_is_repeated_smaller(monkeypatch: pytest.MonkeyPatch, is_padded: bool) -> None:
    monkeypatch.setattr(planner, "free_caches", lambda: None)
    made = Planner()
    rows = [made.part(Work.TRAIN, LENGTHS, PROFILE, 4096, is_padded=is_padded).rows]
    while rows[-1] > 1:
        made.rescue("full")
        rows.append(made.part(Work.TRAIN, LENGTHS, PROFILE, 4096, is_padded=is_padded).rows)
    assert rows == ([5, 2, 1] if is_padded else [5, 1])
