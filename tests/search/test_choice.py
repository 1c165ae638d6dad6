"""A winner where rows and seeds tell one, a tie where they do not, and then the cheaper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.search.choice import LEAST_DRAWS, SURE, Candidate, choose, cost_classes

ROWS, DRAWS = 1000, 200


def candidate(number: int, correct: np.ndarray, cost: float = 0.0, seed: int = 0) -> Candidate:
    """Of `(seeds, rows)` hits."""
    rows = correct.shape[1]
    counts = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), DRAWS)
    return Candidate(number, correct.mean(1), correct @ counts.T / rows, (cost, float(number)))


def hits(share: float, seeds: int = 2, rows: int = ROWS) -> np.ndarray:
    """The same rows are right for every seed."""
    return np.tile(np.arange(rows) < share * rows, (seeds, 1)).astype(float)


@settings(max_examples=12, deadline=None)
@given(
    share=st.floats(0, 1), seeds=st.integers(1, 4), is_minimized=st.booleans(), costs=st.permutations([1.0, 2.0, 3.0])
)
def test_identical_predictions_tie_and_the_cheapest_is_chosen(
    share: float, seeds: int, is_minimized: bool, costs: list[float]
) -> None:
    found = choose(
        [candidate(number, hits(share, seeds), cost) for number, cost in enumerate(costs)], is_minimized=is_minimized
    )
    assert found.chosen == costs.index(1.0)
    assert sorted([found.chosen, *found.tied]) == [0, 1, 2]
    assert all(one.difference == 0 and one.is_tied for one in found.versus)


@settings(max_examples=12, deadline=None)
@given(base=st.floats(0.2, 0.8), is_minimized=st.booleans(), is_first=st.booleans())
def test_five_points_of_a_thousand_rows_are_a_winner(base: float, is_minimized: bool, is_first: bool) -> None:
    better, worse = (base, base + 0.05) if is_minimized else (base + 0.05, base)
    two = [candidate(0, hits(better), cost=9.0), candidate(1, hits(worse), cost=1.0)]
    found = choose(two if is_first else two[::-1], is_minimized)
    assert (found.leader, found.chosen, found.tied) == (0, 0, [])
    assert found.versus[0].difference == pytest.approx(0.05, abs=2e-3)
    assert found.versus[0].probability > 0.99


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_the_order_of_the_candidates_does_not_matter(seed: int, is_minimized: bool) -> None:
    generator = np.random.default_rng(seed)
    three = [candidate(number, (generator.random((3, 200)) < 0.6).astype(float)) for number in range(3)]
    assert choose(three, is_minimized) == choose(three[::-1], is_minimized)


def test_seeds_that_differ_more_than_the_rows_explain_are_a_tie() -> None:
    # Three points apart in the mean, with rows that would tell, but each seed is eight points off.
    steady = np.concatenate([hits(0.65, 1), hits(0.81, 1)])
    other = np.concatenate([hits(0.62, 1), hits(0.78, 1)])
    found = choose([candidate(0, steady, cost=2.0), candidate(1, other, cost=1.0)], is_minimized=False)
    assert (found.leader, found.chosen, found.tied) == (0, 1, [0])
    # With every seed at its mean, the same rows tell.
    found = choose([candidate(0, hits(0.73), cost=2.0), candidate(1, hits(0.70), cost=1.0)], is_minimized=False)
    assert (found.chosen, found.tied) == (0, [])


@pytest.mark.parametrize(("behind", "chosen"), [(0.005, 1), (0.03, 0)])
def test_a_cheaper_one_is_chosen_within_a_standard_error_alone(behind: float, chosen: int) -> None:
    generator = np.random.default_rng(
        1
    )  # which rows are right differs, so that half a point is noise and three are not
    right = generator.random((2, ROWS)) < 0.5
    two = [candidate(0, np.tile(right[0], (2, 1)).astype(float), cost=2.0)]
    aim = round((right[0].mean() - behind) * ROWS)
    other = np.zeros(ROWS)
    other[generator.permutation(ROWS)[:aim]] = 1.0
    two.append(candidate(1, np.tile(other, (2, 1)), cost=1.0))
    found = choose(two, is_minimized=False)
    assert found.versus[0].is_tied
    assert (found.versus[0].probability > SURE) == (chosen == 0)
    assert (found.leader, found.chosen, found.tied) == (0, chosen, [1 - chosen])


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_intervals_cover_what_they_should(spread: float) -> None:
    """Of two equally good configurations, a winner is found in at most about 5 % of studies, whatever it is due to.

    Rows are hard or easy for all alike, so that they are no noise of the seeds, whose own is `spread`.
    """
    found, studies = 0, 100
    for study in range(studies):
        generator = np.random.default_rng(study)
        hardness, own = generator.random(400), generator.normal(0, 0.15, size=(2, 400))
        skill = generator.normal(0.7, spread, size=(2, 2))  # of each seed of each configuration
        two = [
            candidate(number, (hardness + own[number] < skill[number][:, None]).astype(float), seed=study)
            for number in range(2)
        ]
        found += not choose(two, is_minimized=False).versus[0].is_tied
    assert found / studies < 0.09


def test_draws_on_which_a_metric_has_no_value_are_left_out() -> None:
    better, worse = candidate(0, hits(0.75)), candidate(1, hits(0.70))
    better.draws[:, : DRAWS // 2] = np.nan
    found = choose([better, worse], is_minimized=False)
    assert (found.chosen, found.tied) == (0, [])
    assert found.versus[0].low > 0
    better.draws[:, LEAST_DRAWS - 1 :] = np.nan  # too few to claim anything
    found = choose([better, worse], is_minimized=False)
    assert (found.chosen, found.versus) == (0, [])


def test_times_that_differ_by_little_are_as_long() -> None:
    assert cost_classes([20.0, 10.2, 10.0, 30.0, 20.9, 10.4]) == [1, 0, 0, 2, 1, 0]
    assert cost_classes([0.0, 0.0, 1.0]) == [0, 0, 1]
    assert cost_classes([]) == []
