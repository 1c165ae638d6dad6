from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sweeper.config.schema import Config
from sweeper.config.space import Range, Space, contains, exists, grid, grid_size, grid_values, in_order, space_problems
from sweeper.errors import ConfigError


def space(values: dict[str, object]) -> Space:
    made: Space = TypeAdapter(Space).validate_python(values)
    return made


CHAIN = {
    "dropout": {"choices": [0.0, 0.1], "when": {"warmup_ratio": [0.1, 0.2]}},
    "warmup_ratio": {"choices": [0.0, 0.1, 0.2], "when": {"schedule": ["cosine", "linear"]}},
    "schedule": ["constant", "cosine", "linear"],
}


def test_parameters_come_behind_what_they_depend_on() -> None:
    assert in_order(space(CHAIN)) == ["schedule", "warmup_ratio", "dropout"]
    assert in_order(space({"rank": [8], "schedule": ["cosine"]})) == ["rank", "schedule"]


def test_a_parameter_exists_where_all_its_conditions_hold() -> None:
    made = space(CHAIN)
    assert exists(made["warmup_ratio"], {"schedule": "linear"})
    assert not exists(made["warmup_ratio"], {"schedule": "constant"})
    assert not exists(made["dropout"], {"schedule": "constant"})  # nor does what it depends on


def test_a_grid_has_each_configuration_once() -> None:
    configurations = list(grid(space(CHAIN), points=4))
    assert len(configurations) == 1 + 2 * (1 + 2 * 2) == grid_size(space(CHAIN), points=4)
    assert len({tuple(sorted(params.items())) for params in configurations}) == len(configurations)
    plain = space({"rank": [4, 8], "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})
    assert grid_size(plain, points=3) == len(list(grid(plain, points=3))) == 6


@pytest.mark.parametrize(
    ("name", "parameter", "points", "expected"),
    [
        ("learning_rate", {"low": 1e-4, "high": 1e-2, "log": True}, 3, [1e-4, 1e-3, 1e-2]),
        ("dropout", {"low": 0.0, "high": 0.3}, 4, [0.0, 0.1, 0.2, 0.3]),
        ("dropout", {"low": 0.0, "high": 0.3}, 1, [0.15]),
        ("dropout", {"low": 0.0, "high": 0.3, "step": 0.1}, 2, [0.0, 0.1, 0.2, 0.3]),
        ("rank", {"low": 4, "high": 16, "step": 4}, 2, [4, 8, 12, 16]),
        ("rank", {"low": 4, "high": 64, "log": True}, 5, [4, 8, 16, 32, 64]),
        ("rank", {"low": 4, "high": 6}, 9, [4, 5, 6]),
        ("rank", [8, 4], 9, [8, 4]),
    ],
)
def test_the_values_of_a_grid(name: str, parameter: object, points: int, expected: list[float]) -> None:
    made = space({name: parameter})[name]
    values = grid_values(name, made, points)
    assert values == pytest.approx(expected)
    assert all(isinstance(value, int) for value in values) or name != "rank"


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 12), st.integers(1, 9), st.booleans())
def test_a_grid_stays_in_the_space(low: int, width: int, step: int, points: int, log: bool) -> None:
    parameter = Range(low=low, high=low + width, step=None if log else step, log=log)
    values = grid_values("rank", parameter, points)
    assert values
    assert all(contains("rank", parameter, value) for value in values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"dropout": {"choices": [0.1], "when": {"rank": 8}}}, "dropout.when: unknown parameter of the space `rank`"),
        ({"dropout": {"choices": [0.1], "when": {"rank": 7}}, "rank": [8]}, r"rank takes one of \[8\], but got 7"),
        (
            {"dropout": {"choices": [0.1], "when": {"rank": 8}}, "rank": {"low": 4, "high": 8}},
            "rank must be a choice, but it is a range",
        ),
        (
            {
                "dropout": {"choices": [0.1], "when": {"rank": 8}},
                "rank": {"choices": [8], "when": {"dropout": 0.1}},
            },
            "must not lead back to itself, but dropout, rank do",
        ),
        ({"rank": {"choices": [8, 8]}}, "each choice must be given once"),
        ({"rank": {"choices": [0]}}, "greater than or equal to 1, but got 0"),
    ],
)
def test_what_is_wrong_with_a_condition_is_said(values: dict[str, object], expected: str) -> None:
    problems = space_problems(space(values))
    assert any(re.search(expected, problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["+search.space.dropout={choices:[0.1],whn:{rank:8}}"],
            "search.space.dropout: unknown key `whn`; did you mean `when`. Known: choices, when",
        ),
        (["+search.space.dropout={low:0.0}"], "search.space.dropout.high: is required"),
        (["+search.space.dropout={choices:[]}"], "search.space.dropout.*at least 1 item"),
        (["+search.space.dropout=0.1"], "search.space.dropout: .*valid list"),
    ],
)
def test_a_parameter_of_the_wrong_form_is_named(
    composed: Callable[..., Config], overrides: list[str], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        composed("study=demo", *overrides)
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert len(caught.value.problems) == 1
