from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from sweeper.config import combinations
from sweeper.config.schema import Config
from sweeper.errors import ConfigError

Compose = Callable[..., Config]
WHEN = "+search.space.dropout={choices:[0.0,0.1],when:{rank:[8,16]}}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sampler=gp", WHEN], "gp needs every parameter in every trial.*take sampler=tpe, random or grid"),
        (["sampler=qmc", WHEN], "qmc needs every parameter"),
        (["sampler=nsgaii", WHEN], "nsgaii needs every parameter"),
        (["sampler=cmaes", WHEN, "+search.space.warmup_ratio={low:0.0,high:0.1}"], "cmaes needs every parameter"),
        (
            ["sampler=gp", "search.deterministic=true", "engine.slots=4"],
            "gp has been seen to ask otherwise after an interruption",
        ),
        (["sampler=cmaes"], r"cmaes adapts ranges and needs at least two, but got \['learning_rate'\]"),
        (["sampler=grid", "search.trials=41"], "the grid has 40 configurations, but got 41; set search.trials=40"),
        (["evaluation.count=1"], "median decides first at evaluation 1, but a trial has 1.*pruner=none"),
        (["pruner.warmup_evaluations=3"], "median decides first at evaluation 4, but a trial has 4"),
        (["pruner=percentile", "pruner.warmup_evaluations=3"], "percentile decides first at evaluation 4"),
        (["pruner=patient", "pruner.patience=2"], "patient decides first at evaluation 4, but a trial has 4"),
        (["pruner=successive-halving", "pruner.min_evaluations=4"], "successive-halving decides first at evaluation 4"),
        (["pruner=hyperband", "pruner.reduction_factor=5"], "at least two brackets.*1 × 5 > 4.*successive-halving"),
        (["search.enqueue=[{rnk:8}]"], r"enqueue\[0\]: unknown parameter of the space `rnk`; did you mean `rank`"),
        (["search.enqueue=[{},{rank:7}]"], r"enqueue\[1\].rank: must be one that search.space.rank allows, but got 7"),
        (["search.enqueue=[{rank:'8'}]"], r"enqueue\[0\].rank: .*valid integer"),
        (["search.enqueue=[{learning_rate:0.5}]"], "learning_rate: must be one that .* allows, but got 0.5"),
        (["search.enqueue=[{rank:4,dropout:0.1}]", WHEN], "dropout: does not exist beside these choices"),
        (["search.enqueue=[{},{}]", "search.trials=1"], "at most search.trials=1 may be given, but got 2"),
        (["sampler=grid", "search.enqueue=[{learning_rate:0.001}]"], "learning_rate: must be one that"),
        (["search.warm_start=demo"], "must be another study than study.name, but got 'demo' twice"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(composed: Compose, overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        composed("study=demo", *overrides)
    assert re.search(expected, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler=tpe", WHEN],
        ["sampler=random", WHEN],
        ["sampler=grid", WHEN, "search.trials=56"],
        ["sampler=grid", "search.trials=40"],
        ["sampler=cmaes", "+search.space.dropout={low:0.0,high:0.1}"],
        ["evaluation.count=1", "pruner=none"],
        ["pruner=patient", "pruner.patience=1"],
        ["pruner=successive-halving", "pruner.min_evaluations=3"],
        ["pruner=hyperband", "search.deterministic=true", "engine.slots=4"],
        ["search.enqueue=[{rank:8,dropout:0.1}]", WHEN],
        ["sampler=grid", "search.enqueue=[{learning_rate:0.03}]"],
    ],
)
def test_what_makes_sense_is_accepted(composed: Compose, overrides: list[str]) -> None:
    composed("study=demo", *overrides)


def test_longer_trials_leave_more_to_prune(composed: Compose) -> None:
    short = ["evaluation.count=1", "train.examples=null", "train.epochs=1"]
    with pytest.raises(ConfigError, match="a trial has 1"):
        composed("study=demo", *short)
    config = composed("study=demo", *short, "+search.space.epochs=[1,3]", "pruner=hyperband")
    assert config.most_evaluations() == 3
    assert combinations.brackets(config) == 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], []),
        (["search.trials=10"], []),
        (
            ["search.trials=9", "engine.slots=4"],
            ["all 9 trials are drawn at random, since tpe .* sampler.startup_trials=6 have ended, and 3"],
        ),
        (["sampler=gp", "search.trials=6", "engine.slots=1"], ["gp begins to learn when sampler.startup_trials=6"]),
        (
            ["sampler=nsgaii", "search.trials=10"],
            ["nsgaii begins to learn when sampler.population_size=10", "nsgaii does not avoid infeasible"],
        ),
        (
            ["sampler=cmaes", "+search.space.dropout={low:0.0,high:0.1}"],
            ["cmaes draws rank, alpha_ratio at random", "cmaes does not avoid infeasible configurations"],
        ),
        (
            ["sampler=cmaes", "+search.space.dropout={low:0.0,high:0.1}", "sampler.startup_trials=16"],
            ["cmaes begins to learn when sampler.startup_trials=16", "cmaes draws", "cmaes does not avoid"],
        ),
        (["sampler=random"], ["random does not avoid infeasible"]),
        (["pruner.startup_trials=16"], ["median prunes nothing before 16 trials are complete, but there are 16"]),
        (["pruner=hyperband"], ["hyperband keeps 3 brackets apart, and tpe learns in each by itself"]),
        (["pruner=hyperband", "sampler=random"], ["random does not avoid infeasible"]),
    ],
)
def test_what_surprises_is_said(composed: Compose, overrides: list[str], expected: list[str]) -> None:
    notes = combinations.notes(composed("study=demo", *overrides))
    assert len(notes) == len(expected)
    for note, words in zip(notes, expected, strict=True):
        assert re.search(words, note)
