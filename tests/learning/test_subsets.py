"""Nested parts of the training rows."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sweeper.learning.subsets import nested


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(0, 5))
def test_the_smaller_is_in_the_larger_and_each_label_keeps_its_share(labels: list[str], seed: int) -> None:
    counts = sorted({max(1, round(share * len(labels))) for share in (0.12, 0.25, 0.5, 1.0)})
    found = nested(labels, counts, seed)
    assert [len(places) for places in found] == counts
    assert found[-1] == tuple(range(len(labels)))
    for small, large in pairwise(found):
        assert set(small) < set(large)
    for places in found:
        share, here, whole = len(places) / len(labels), Counter(labels[place] for place in places), Counter(labels)
        # One row for where each label begins, and one for each other label that takes or gives a place.
        assert all(abs(here[label] - share * whole[label]) <= len(whole) for label in whole)


def test_rows_that_all_differ_are_drawn() -> None:
    [one], [two] = (nested([f"answer {place:03d}" for place in range(200)], [50], seed) for seed in (0, 1))
    assert one != two
    assert 60 < sum(one) / 50 < 140  # and not the first ones
    assert nested(range(200), [50], 0) == nested(range(200), [50], 0)
