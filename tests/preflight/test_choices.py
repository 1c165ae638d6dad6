"""What the trials of a study may be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.preflight.architecture import Widths
from sweeper.preflight.choices import has_dropout, possible_ranks, ranks, target_choices, values
from sweeper.preflight.trainings import adapter_values

Compose = Callable[..., Config]
CONDITION = "when:{alpha_ratio:1.0}"
WIDTHS = Widths(layers=1, weights=1, outside=1, attention=2, mlp=3)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ("all-linear",)),
        (["lora.target_modules=mlp"], ("mlp",)),
        (["lora.target_modules=[q_proj,v_proj]"], (("q_proj", "v_proj"),)),
        (["+search.space.target_modules=[attention,mlp]"], ("attention", "mlp")),
        ([f"+search.space.target_modules={{choices:[attention,mlp],{CONDITION}}}"], ("attention", "mlp", "all-linear")),
        ([f"+search.space.target_modules={{choices:[mlp,all-linear],{CONDITION}}}"], ("mlp", "all-linear")),
        (["+lora.module_sets.qv=[q_proj,v_proj]", "lora.target_modules=qv"], (("q_proj", "v_proj"),)),
        (
            ["+lora.module_sets={qv:[q_proj,v_proj],late:'.*[.]1[.].*'}", "+search.space.target_modules=[qv,mlp,late]"],
            (("q_proj", "v_proj"), "mlp", ".*[.]1[.].*"),
        ),
    ],
)
def test_the_choices_of_target_modules(composed: Compose, overrides: list[str], expected: tuple[Any, ...]) -> None:
    assert target_choices(composed("study=demo", *overrides)) == expected


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (["lora.rank=512"], (4, 64)),
        (["~search.space.rank", "lora.rank=12"], (12, 12)),
        (["~search.space.rank", "+search.space.rank={low:6,high:100}"], (6, 100)),
        (["~search.space.rank", f"+search.space.rank={{choices:[8,4],{CONDITION}}}", "lora.rank=64"], (4, 64)),
        (["~search.space.rank", f"+search.space.rank={{low:6,high:100,{CONDITION}}}", "lora.rank=2"], (2, 100)),
    ],
)
def test_the_lowest_and_the_highest_rank(composed: Compose, rank: list[str], expected: tuple[int, int]) -> None:
    assert ranks(composed("study=demo", *rank)) == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], False),
        (["lora.dropout=0.1"], True),
        (["+search.space.dropout=[0.0]"], False),
        (["+search.space.dropout=[0.0,0.1]"], True),
        (["+search.space.dropout={low:0.0,high:0.1}"], True),
        ([f"+search.space.dropout={{choices:[0.1],{CONDITION}}}"], True),
    ],
)
def test_whether_any_trial_has_dropout(composed: Compose, overrides: list[str], expected: bool) -> None:
    assert has_dropout(composed("study=demo", *overrides)) is expected


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (["~search.space.rank", "lora.rank=12"], [12]),
        (["search.space.rank=[16,4]"], [4, 16]),
        (["~search.space.rank", f"+search.space.rank={{choices:[8,4],{CONDITION}}}", "lora.rank=64"], [4, 8, 64]),
        (["~search.space.rank", f"+search.space.rank={{low:4,high:8,step:2,{CONDITION}}}", "lora.rank=6"], [4, 6, 8]),
    ],
)
def test_every_rank_and_the_adapter_in_the_mean(composed: Compose, rank: list[str], expected: list[int]) -> None:
    config = composed("study=demo", *rank)
    assert possible_ranks(config) == expected
    assert sorted(values(config, "rank", 9)) == expected
    assert ranks(config) == (expected[0], expected[-1])
    assert adapter_values(config, WIDTHS) == sum(expected) / len(expected) * 5


def test_what_may_be_tried_is_known_without_torch() -> None:
    said = "import sys, sweeper.preflight.choices; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said]).returncode == 0
