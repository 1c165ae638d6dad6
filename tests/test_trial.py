from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sweeper.trial import Rhythm, run_name
from tests.conftest import trial_params

rhythms = st.builds(
    Rhythm,
    interval_examples=st.integers(1, 200),
    evaluations=st.integers(1, 6),
    batch_size=st.integers(1, 64),
)


@given(rhythms)
def test_evaluations_are_at_the_same_examples_whatever_the_batch_size(rhythm: Rhythm) -> None:
    due = [step for step in range(rhythm.total_steps + 1) if rhythm.is_evaluation(step)]
    seen = [rhythm.examples_at(step) for step in due]
    assert seen == [rhythm.interval_examples * (index + 1) for index in range(rhythm.evaluations)]


@given(rhythms)
def test_each_step_sees_between_one_and_a_batch_of_examples(rhythm: Rhythm) -> None:
    for step in range(rhythm.total_steps):
        seen = rhythm.examples_at(step + 1) - rhythm.examples_at(step)
        assert 1 <= seen <= rhythm.batch_size


def test_run_names_read_well() -> None:
    params: dict[str, object] = {"learning_rate": 0.0002, "rank": 64, "alpha": 128.0, "beta1": 0.95}
    assert run_name(7, params) == "t07 r64 a128 lr2e-4 beta1=0.95"


def test_scale() -> None:
    assert trial_params(rank=16, alpha=32.0).scale == 2.0
    assert trial_params(rank=16, alpha=32.0, rslora=True).scale == 8.0
