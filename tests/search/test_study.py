from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.config.schema import Config
from sweeper.config.space import Range
from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.search.study import Asked, Search, best_of, distribution, view
from sweeper.trial import Reason

Compose = Callable[..., Config]
RECORD = {"metrics": {"accuracy": 0.5}, "duration_s": 1.0}


def scores(value: float) -> dict[str, float]:
    return {"accuracy": value, "macro_f1": value / 2}


def ask(search: Search) -> Asked:
    asked = search.ask()
    assert asked is not None
    return asked


def test_distributions() -> None:
    assert distribution("rank", [4, 8]) == CategoricalDistribution([4, 8])
    assert distribution("rank", Range(low=4, high=16, step=4)) == IntDistribution(4, 16, step=4)
    assert distribution("learning_rate", Range(low=1e-4, high=1, log=True)) == FloatDistribution(1e-4, 1.0, log=True)


def test_the_total_is_exact_and_in_flight_counts(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "search.trials=3"))
    first, second, third = ask(search), ask(search), ask(search)
    assert search.ask() is None
    search.complete(first.number, 0.5, RECORD)
    assert search.ask() is None
    search.prune(second.number, Reason.DIVERGED, RECORD)
    search.fail(third.number, "trace")
    assert search.ask() is None
    seen = view(home, "demo")
    assert seen.counts() == {"COMPLETE": 1, "FAIL": 1, "PRUNED": 1}
    assert [trial.reason for trial in seen.trials] == [None, "diverged", "defect"]
    assert seen.best is not None
    assert (seen.best.number, seen.best.value, seen.best.metrics) == (0, 0.5, {"accuracy": 0.5})


def test_an_interrupted_trial_comes_back_first_and_under_its_number(composed: Compose, home: Home) -> None:
    config = composed("study=demo", "search.trials=4")
    search = Search(home, config)
    first, second = ask(search), ask(search)
    search.report(first.number, 0, scores(0.1), may_prune=False)
    search.requeue(first.number, has_crashed=True)
    assert view(home, "demo").counts() == {"RUNNING": 1, "WAITING": 1}

    # A new process: what the dead one left RUNNING is its own to take back.
    search = Search(home, config)
    assert search.requeue_orphans() == [second.number]
    again = [ask(search), ask(search)]
    assert [(asked.number, asked.params) for asked in again] == [(a.number, a.params) for a in (first, second)]
    assert [asked.crashes for asked in again] == [1, 0]
    assert ask(search).number == 2
    search.report(first.number, 0, scores(0.9), may_prune=False)  # repeated after the resume: skipped
    search.complete(first.number, 0.1, RECORD)
    assert view(home, "demo").trials[0].evaluations == (0.1,)


def test_the_median_pruner_prunes_at_equal_evaluations(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "search.trials=9"))
    for value in (0.2, 0.5, 0.6, 0.7):
        number = ask(search).number
        assert not search.report(number, 0, scores(value), may_prune=True)
        search.complete(number, value, RECORD)
    bad, good = ask(search).number, ask(search).number
    assert search.report(bad, 0, scores(0.3), may_prune=True)
    assert not search.report(good, 0, scores(0.8), may_prune=True)
    search.prune(bad, Reason.PRUNER, RECORD)
    assert view(home, "demo").trials[bad].state == "PRUNED"
    late = ask(search).number
    assert not search.report(late, 0, scores(0.0), may_prune=False)  # its last evaluation: it is complete


def test_no_pruner_does_not_prune(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "search.trials=9", "pruner=none"))
    for value in (0.9, 0.9, 0.9, 0.9, 0.9, 0.0):
        number = ask(search).number
        assert not search.report(number, 0, scores(value), may_prune=True)
        search.complete(number, value, RECORD)


@pytest.mark.parametrize(("sampler", "informed"), [("tpe", 4), ("random", 0)])
def test_asks_say_whether_the_sampler_was_informed(composed: Compose, home: Home, sampler: str, informed: int) -> None:
    search = Search(home, composed("study=demo", f"sampler={sampler}", "search.trials=10"))
    for _ in range(10):
        asked = ask(search)
        search.complete(asked.number, 0.1, RECORD)
    trials = view(home, "demo").trials
    assert sum(trial.is_informed for trial in trials) == informed
    # What we say is what Optuna did: its relative sampler leaves a mark on the trials that it drew.
    study = optuna.load_study(study_name="demo", storage=home.optuna_url)
    marked = [any(key.startswith("tpe:relative_params") for key in trial.system_attrs) for trial in study.trials]
    assert sum(marked) == informed


def test_the_seed_decides_the_first_asks(composed: Compose, tmp_path_factory: pytest.TempPathFactory) -> None:
    def first_params(seed: int) -> dict[str, object]:
        home = Home(tmp_path_factory.mktemp("store"))
        return ask(Search(home, composed("study=demo", f"search.seed={seed}"))).params

    assert first_params(1) == first_params(1)
    assert first_params(1) != first_params(2)


def test_the_earlier_of_equals_is_best(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo"))
    for value in (0.5, 0.7, 0.7):
        search.complete(ask(search).number, value, RECORD)
    best = best_of(search.views())
    assert best is not None
    assert best.number == 1


def test_an_unknown_study_lists_the_known_ones(composed: Compose, home: Home) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        view(home, "demo")
    Search(home, composed("study=demo"))
    with pytest.raises(StoreError, match="unknown study `dmo`; did you mean `demo`"):
        view(home, "dmo")
