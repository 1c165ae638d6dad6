"""What is computed of scores: pairing, chance, noise, and what becomes of numbers that are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.retention.measure import Answers, Yardstick, constraining, drop, noise_floor
from sweeper.uncertainty import share_error

ROWS = st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9), st.integers(1, 90)), min_size=2, max_size=20)


def answers(correct: int, of: int, nll: float = 2.0, passages: int = 40, spread: float = 0.0) -> Answers:
    """So many right of all; passages of ten tokens, whose mean log-likelihoods differ by `spread`."""
    means = nll + spread * np.linspace(-1, 1, passages)
    return Answers.of([1.0] * correct + [0.0] * (of - correct), list(10 * means), [10] * passages)


def test_accuracy_and_perplexity_are_what_they_are() -> None:
    found = Answers.of([1, 0, 1, 1], [2.0, 10.0], [2, 4])
    assert found.values() == {"accuracy": 0.75, "perplexity": pytest.approx(math.exp(2.0))}
    assert Answers.of([], [1.0, 1.0], [1, 1]).values() == {"perplexity": pytest.approx(math.e)}
    assert Answers.of([1, 0], [], []).values() == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("correct", "of", "expected"),
    [(33, 100, "perplexity"), (34, 100, "perplexity"), (40, 100, "accuracy"), (10, 100, "perplexity")],
)
def test_questions_constrain_where_the_base_beats_chance_by_two_standard_errors(
    correct: int, of: int, expected: str
) -> None:
    base = answers(correct, of)
    assert constraining(base, chance=0.25) == expected
    assert (correct / of - 0.25 > 2 * share_error(correct / of, of)) == (expected == "accuracy")


def test_without_passages_a_base_at_chance_has_nothing_to_lose() -> None:
    base = Answers.of([1, 0, 0, 0], [], [])
    assert constraining(base, 0.25) is None
    yardstick = Yardstick.of(base, None, 0.0, 0.0)
    values = yardstick.values(Answers.of([0, 0, 0, 0], [], []))
    assert values == {"retention/accuracy": 0.0}
    assert yardstick.excess(values) == 0.0
    assert not yardstick.is_wrecked(values)


def test_the_drop_is_of_pairs() -> None:
    # Both lose two answers: one of them keeps the others, the other one wins as many as it loses beside.
    base = Answers.of([1, 1, 1, 1, 0, 0, 0, 0], [], [])
    steady = drop(base, Answers.of([0, 0, 1, 1, 0, 0, 0, 0], [], []), "accuracy")
    shaken = drop(base, Answers.of([0, 0, 0, 0, 1, 1, 0, 0], [], []), "accuracy")
    assert steady[0] == shaken[0] == 0.25
    assert steady[1] < shaken[1]
    assert steady[1] == pytest.approx(np.std([1, 1, 0, 0, 0, 0, 0, 0], ddof=1) / math.sqrt(8))


@given(ROWS)
def test_a_drop_in_likelihood_is_one_less_the_ratio_of_perplexities(rows: list[tuple[float, float, int]]) -> None:
    one, other, tokens = zip(*[(a * n, b * n, n) for a, b, n in rows], strict=True)
    base, adapted = Answers.of([], one, tokens), Answers.of([], other, tokens)
    assert base.perplexity is not None
    assert adapted.perplexity is not None
    lost, error = drop(base, adapted, "perplexity")
    assert lost == pytest.approx(1 - base.perplexity / adapted.perplexity, rel=1e-9, abs=1e-9)
    assert error >= 0
    assert drop(base, base, "perplexity") == (0.0, 0.0)


def test_its_standard_error_is_that_of_drawing_passages() -> None:
    generator = np.random.default_rng(1)
    tokens = generator.integers(20, 120, 60)
    base = Answers.of([], list(2.0 * tokens), list(tokens))
    adapted = Answers.of([], list((2.1 + 0.2 * generator.standard_normal(60)) * tokens), list(tokens))
    drawn = []
    for rows in generator.integers(60, size=(2000, 60)):
        drawn.append(drop(base.take([], rows), adapted.take([], rows), "perplexity")[0])
    assert drop(base, adapted, "perplexity")[1] == pytest.approx(np.std(drawn), rel=0.1)


def test_the_noise_floor_is_the_standard_error_of_the_base_alone() -> None:
    assert noise_floor(answers(40, 100), "accuracy") == pytest.approx(math.sqrt(0.4 * 0.6 / 100), rel=0.1)
    spread = answers(1, 2, passages=100, spread=0.3)
    expected = np.std(0.3 * np.linspace(-1, 1, 100)) / 10  # of the mean, which is that of its exponential nearly
    assert noise_floor(spread, "perplexity") == pytest.approx(expected, rel=0.1)
    assert noise_floor(answers(1, 2), "perplexity") == 0.0  # all passages alike


def test_the_tolerance_is_what_is_allowed_or_the_noise() -> None:
    base = answers(60, 100, spread=0.3)
    floor = noise_floor(base, "accuracy")
    assert Yardstick.of(base, "accuracy", 0.2, 0.0).tolerance == 0.2
    assert Yardstick.of(base, "accuracy", 0.0, 0.0).tolerance == floor > 0
    assert Yardstick.of(base, "perplexity", 0.0, 0.25).tolerance == pytest.approx(0.2)  # 1 − 1 / 1.25


def test_an_adapter_violates_from_the_tolerance_on_and_is_wrecked_from_two_errors_above() -> None:
    base = answers(80, 100)
    yardstick = Yardstick.of(base, "accuracy", 0.1, 0.0)

    def judged(correct: int) -> tuple[bool, bool]:
        values = yardstick.values(answers(correct, 100))
        return yardstick.excess(values) > 0, yardstick.is_wrecked(values)

    assert [judged(correct) for correct in (90, 71, 68, 30)] == [
        (False, False),
        (False, False),
        (True, False),
        (True, True),
    ]


@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e300])
def test_numbers_that_are_none_are_the_worst(broken: float) -> None:
    base = answers(1, 2, passages=3)
    yardstick = Yardstick.of(base, "perplexity", 0.0, 0.25)
    values = yardstick.values(Answers.of([0, 0], [broken] * 3, [10] * 3))
    assert all(math.isfinite(value) for value in values.values())
    assert values["retention/drop"] == pytest.approx(1.0)
    assert yardstick.is_wrecked(values)
