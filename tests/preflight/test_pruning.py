from __future__ import annotations

import random
from collections.abc import Callable

import optuna
import pytest

from sweeper.config.schema import Config
from sweeper.preflight.pruning import WHOLE, Kept, kept, records
from sweeper.search.pruners import pruner

Compose = Callable[..., Config]


def found(composed_once: Compose, *overrides: str, trials: float = 16, evaluations: float = 4) -> Kept:
    return kept(composed_once("study=demo", "engine.slots=1", *overrides), trials, evaluations)


@pytest.mark.parametrize(
    ("overrides", "trained", "complete"),
    [
        # 12 of 16 come after the first four; half of them stop at the first of four evaluations.
        (["pruner=median"], 1 - 12 / 16 / 2 * 3 / 4, 1 - 12 / 16 / 2),
        (["pruner=median", "pruner.startup_trials=8"], 1 - 8 / 16 / 2 * 3 / 4, 1 - 8 / 16 / 2),
        (["pruner=median", "engine.slots=8"], 1 - 8 / 16 / 2 * 3 / 4, 1 - 8 / 16 / 2),  # they begin together
        (["pruner=median", "pruner.warmup_evaluations=1"], 1 - 12 / 16 / 2 / 2, 1 - 12 / 16 / 2),
        (["pruner=median", "pruner.warmup_evaluations=2"], 1 - 12 / 16 / 2 / 4, 1 - 12 / 16 / 2),
        (["pruner=percentile"], 1 - 12 / 16 * 3 / 4 * 3 / 4, 1 - 12 / 16 * 3 / 4),
        (["pruner=percentile", "pruner.percentile=50"], 1 - 12 / 16 / 2 * 3 / 4, 1 - 12 / 16 / 2),
        (["pruner=patient"], 1 - 12 / 16 / 2 / 4, 1 - 12 / 16 / 2),
        (["pruner=patient", "pruner.patience=0"], 1 - 12 / 16 / 2 / 2, 1 - 12 / 16 / 2),
        # Half of all stop after one evaluation, half of the rest after two.
        (["pruner=successive-halving"], (1 + 1 / 2 + 1 / 4 * 2) / 4, 1 / 4),
        (["pruner=successive-halving", "pruner.reduction_factor=3"], (1 + 1 / 3 * 2 + 1 / 9) / 4, 1 / 9),
        (["pruner=successive-halving", "pruner.min_evaluations=2"], (2 + 1 / 2 * 2) / 4, 1 / 2),
        # Brackets that begin after 1, 2, 4 evaluations have 4, 3, 3 of ten trials.
        (["pruner=hyperband"], (4 * (1 + 1 / 2 + 1 / 4 * 2) / 4 + 3 * (2 + 1) / 4 + 3) / 10, (4 / 4 + 3 / 2 + 3) / 10),
        (["pruner=none"], 1, 1),
    ],
)
def test_each_pruner_leaves_a_share(
    composed_once: Compose, overrides: list[str], trained: float, complete: float
) -> None:
    left = found(composed_once, *overrides)
    assert (left.trained, left.complete) == (pytest.approx(trained), pytest.approx(complete))


def test_where_nothing_can_be_stopped_all_is_trained(composed_once: Compose) -> None:
    for option in ("median", "percentile", "patient", "successive-halving", "hyperband"):
        assert found(composed_once, f"pruner={option}", evaluations=1) == WHOLE
        assert found(composed_once, f"pruner={option}", trials=0) == WHOLE
    assert found(composed_once, "pruner=median", trials=3) == WHOLE


@pytest.mark.parametrize("option", ["median", "percentile", "successive-halving", "hyperband", "none"])
def test_optunas_pruners_do_about_that(composed_once: Compose, option: str) -> None:
    """Trials one after the other, in random order, whose ranks stay as they are."""
    config = composed_once("study=demo", f"pruner={option}", "engine.slots=1", "evaluation.count=8")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trained = []
    for seed in range(20):
        draw = random.Random(seed)
        # Hyperband sorts trials into brackets by the study's name, which would be drawn.
        study = optuna.create_study(study_name=f"seed-{seed}", direction="maximize", pruner=pruner(config))
        for _ in range(16):
            trial, value = study.ask(), draw.random()
            for evaluation in range(1, 9):
                trial.report(value, evaluation)
                if evaluation == 8 or trial.should_prune():
                    break
            trained.append(evaluation / 8)
            study.tell(trial, value if evaluation == 8 else None, state=_state(evaluation))
    mean = sum(trained) / len(trained)
    print(f"{option}: {mean:.3f} of {kept(config, 16, 8).trained:.3f}")
    assert kept(config, 16, 8).trained == pytest.approx(mean, abs=0.15)


def _state(evaluation: int) -> optuna.trial.TrialState:
    return optuna.trial.TrialState.COMPLETE if evaluation == 8 else optuna.trial.TrialState.PRUNED


@pytest.mark.parametrize(
    ("trials", "places", "expected"), [(0, 2, 0), (1, 2, 1), (2, 2, 2), (4, 2, 2 + 2 / 3 + 2 / 4), (3, 1, 11 / 6)]
)
def test_some_of_those_that_end_are_the_best_so_far(trials: int, places: int, expected: float) -> None:
    assert records(trials, places) == pytest.approx(expected)
