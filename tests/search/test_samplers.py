from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.config.schema import Config
from sweeper.config.space import Choice, Range
from sweeper.paths import Home
from sweeper.search.samplers import _StateUnpickler, distribution, sampler
from sweeper.search.study import Search
from sweeper.search.views import configurations, is_at_total, view
from sweeper.trial import Reason
from tests.search.conftest import RECORD, ask, complete, curve

Compose = Callable[..., Config]
CONDITIONAL = (
    "+search.space.schedule=[constant,cosine,linear]",
    "+search.space.warmup_ratio={low:0.0,high:0.2,step:0.1,when:{schedule:[cosine,linear]}}",
    "+search.space.dropout={choices:[0.0,0.1],when:{schedule:cosine,rank:[8,16]}}",
)


def test_distributions() -> None:
    assert distribution("rank", [4, 8]) == CategoricalDistribution([4, 8])
    assert distribution("rank", Choice(choices=[4, 8])) == CategoricalDistribution([4, 8])
    assert distribution("rank", Range(low=4, high=16, step=4)) == IntDistribution(4, 16, step=4)
    assert distribution("learning_rate", Range(low=1e-4, high=1, log=True)) == FloatDistribution(1e-4, 1.0, log=True)


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_parameter_exists_only_with_its_choice(composed: Compose, home: Home, name: str) -> None:
    search = Search(home, composed("study=demo", f"sampler={name}", "search.trials=30", *CONDITIONAL))
    for index in range(30):
        asked = ask(search)
        assert ("warmup_ratio" in asked.params) == (asked.params["schedule"] != "constant")
        has_dropout = asked.params["schedule"] == "cosine" and asked.params["rank"] in (8, 16)
        assert ("dropout" in asked.params) == has_dropout
        complete(search, asked.number, 0.01 * index)
    trials = view(home, "demo").trials
    assert {"warmup_ratio" in trial.params for trial in trials} == {True, False}
    assert sum(trial.is_informed for trial in trials) == (24 if name == "tpe" else 0)


def test_a_grid_visits_every_configuration_once_and_ends(composed: Compose, home: Home) -> None:
    """Three schedules: 1 + 3 warm-ups; with cosine and two of three ranks, two dropouts; each at three rates."""
    space = ("search.space.rank=[4,8,16]", "~search.space.alpha_ratio", "sampler.points=3", *CONDITIONAL)
    size = 3 * (3 * (1 + 3) + 3 * (1 + 2 + 2))
    config = composed("study=demo", "sampler=grid", f"search.trials={size}", *space)
    search = Search(home, config)
    waiting = [ask(search), ask(search)]
    seen = [asked.params for asked in waiting]
    search.requeue(waiting[0].number, has_crashed=False)
    assert ask(search) == waiting[0]
    while asked := search.ask():
        seen.append(asked.params)
        complete(search, asked.number, 0.5)
    assert len(seen) == size
    assert len({tuple(sorted(params.items())) for params in seen}) == size
    assert {params["learning_rate"] for params in seen} == {3e-4, 3e-3, 3e-2}


def test_a_grid_with_rejected_configurations_ends_too(composed: Compose, home: Home) -> None:
    space = ("search.space.rank=[4,8]", "search.space.alpha_ratio=[1.0]", "sampler.points=2")
    config = composed("study=demo", "sampler=grid", "search.trials=4", *space)
    search = Search(home, config, ["vram"])
    while asked := search.ask():
        if asked.params["rank"] == 8:
            record = {"examples_seen": 0, "detail": "not trained: vram"}
            search.prune(asked.number, Reason.INFEASIBLE, record, {"vram": 1.0})
        else:
            search.complete(asked.number, 0.5, RECORD, {"vram": -1.0})
    trials = view(home, "demo").trials
    assert (len(trials), sum(trial.counts for trial in trials)) == (4, 2)
    assert is_at_total(trials, config.search.trials, configurations(config))


def test_the_gp_is_told_of_trials_that_were_stopped(composed: Compose, home: Home) -> None:
    """It reads complete trials alone; what a person sees is what became of them."""
    search = Search(home, composed("study=demo", "sampler=gp", "search.trials=9"), ["vram"])
    search.remember("baseline", {"accuracy": 0.05})
    diverged = ask(search).number
    search.prune(diverged, Reason.DIVERGED, RECORD, {"vram": -1.0})
    search.complete(ask(search).number, 0.8, RECORD, {"vram": -1.0})
    search.complete(ask(search).number, 0.04, RECORD, {"vram": -1.0})
    infeasible = ask(search).number
    search.prune(infeasible, Reason.INFEASIBLE, {"examples_seen": 0}, {"vram": 1.0})
    pruned = ask(search).number
    search.report(pruned, curve(0.3, 0.2), may_prune=False)
    search.prune(pruned, Reason.PRUNER, RECORD, {"vram": -1.0})
    stored = optuna.load_study(study_name="demo", storage=home.optuna_url).trials
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * 5
    # Before there is another value, the untuned base's; then the worst; a pruned one's last.
    assert [trial.value for trial in stored] == [0.05, 0.8, 0.04, 0.04, 0.2]
    trials = view(home, "demo").trials
    assert [trial.state for trial in trials] == ["PRUNED", "COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert [trial.value for trial in trials] == [None, 0.8, 0.04, None, None]


def infeasible_shares(composed: Compose, home: Home, sampler_name: str, seed: int) -> tuple[float, float]:
    """Of the asks of a study's first and second half; half of its space is infeasible, and the best near the edge."""
    name = f"{sampler_name}-{seed}"
    space = (
        "~search.space.alpha_ratio",
        "search.space.rank=[4,8,16,32]",
        "search.space.learning_rate={low:1.0e-4,high:1.0e-2,log:true}",
    )
    settings = (f"study.name={name}", f"sampler={sampler_name}", f"search.seed={seed}", "search.trials=40")
    search = Search(home, composed("study=demo", *settings, *space), ["vram"])
    while asked := search.ask():
        rank, rate = asked.params["rank"], asked.params["learning_rate"]
        vram = math.log(rank * rate / 11e-3)  # above zero for half of the space
        if vram > 0:
            record = {"examples_seen": 0, "detail": "not trained: vram"}
            search.prune(asked.number, Reason.INFEASIBLE, record, {"vram": vram})
        else:
            score = math.exp(-(math.log(rate / 6e-4) ** 2)) * (0.5 + rank / 64)
            search.complete(asked.number, score, RECORD, {"vram": vram})
    seen = view(home, name)
    assert sum(trial.counts for trial in seen.trials) == 40
    assert seen.best is not None
    assert seen.best.is_feasible
    half = len(seen.trials) // 2
    first, second = (sum(t.is_rejected for t in part) / len(part) for part in (seen.trials[:half], seen.trials[half:]))
    return first, second


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_the_share_of_infeasible_asks_falls(composed: Compose, home: Home, name: str) -> None:
    """Over three seeds; TPE alone wavers, since it looks for the best near the edge."""
    shares = [infeasible_shares(composed, home, name, seed) for seed in range(3)]
    first, second = (sum(part) / len(part) for part in zip(*shares, strict=True))
    print(f"{name}: {first:.2f} of the asks of the first half infeasible, {second:.2f} of the second")
    assert second < first
    assert second < 0.4  # random draws: 0.47


def test_the_state_of_cmaes_can_be_nothing_but_arrays(composed: Compose, home: Home, tmp_path: Path) -> None:
    config = composed(
        "study=demo",
        "sampler=cmaes",
        "sampler.population_size=4",
        "+search.space.dropout={low:0.0,high:0.3}",
        "search.trials=20",
    )
    search = Search(home, config)
    for index in range(20):
        complete(search, ask(search).number, 0.05 * index)
    stored = optuna.load_study(study_name="demo", storage=home.optuna_url).trials
    states = [trial for trial in stored if any("cma:optimizer" in key for key in trial.system_attrs)]
    assert len(states) >= 3  # it was restored from the storage, several times
    assert sum(trial.is_informed for trial in view(home, "demo").trials) == 19

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "ran",)

    with pytest.raises(pickle.UnpicklingError, match="consists of arrays, but it names pathlib"):
        _StateUnpickler(io.BytesIO(pickle.dumps(Malicious()))).load()
    assert not (tmp_path / "ran").exists()


def test_tpe_knows_of_trials_in_flight_and_of_conditions(composed: Compose) -> None:
    """What these do for a search shows only over hundreds of trials; that they are asked for shows here."""
    plain, conditional = composed("study=demo"), composed("study=demo", *CONDITIONAL)
    assert (sampler(plain, 0)._constant_liar, sampler(plain, 0)._multivariate, sampler(plain, 0)._group) == (
        True,
        True,
        False,
    )
    assert sampler(conditional, 0)._group
