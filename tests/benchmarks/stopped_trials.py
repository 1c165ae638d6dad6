"""What a Gaussian process should be told of trials that the pruner stopped: PRUNED, or COMPLETE with the last value.

    python tests/benchmarks/stopped_trials.py

Optuna's GPSampler reads complete trials alone. Told PRUNED, it knows nothing of where a trial was stopped, and asks for
the same place again. A made-up score with one optimum, three evaluations, the median pruner; 40 trials, four seeds; a
minute.
"""

from __future__ import annotations

import math
import warnings

import optuna
from optuna.trial import TrialState

TRIALS = 40
NEAR = 0.03  # of the width of the space


def study(seed: int, told: TrialState) -> tuple[int, int, float]:
    """How many were pruned, how many asks were for a place where one had been, and the best value (at most 1)."""
    optimised = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(4, 0))
    stopped: list[tuple[float, float]] = []
    again = 0
    for number in range(TRIALS):
        optimised.sampler = optuna.samplers.GPSampler(
            n_startup_trials=6, seed=1000 * seed + number, warn_independent_sampling=False
        )
        trial = optimised.ask()
        rate, share = trial.suggest_float("rate", 1e-5, 1e-1, log=True), trial.suggest_float("share", 0, 1)
        place = (math.log10(rate) / 4, share)
        again += any(math.dist(place, other) < NEAR for other in stopped)
        best = math.exp(-2 * math.log10(rate / 2e-3) ** 2 - 4 * (share - 0.3) ** 2)
        for evaluation in (1, 2, 3):
            trial.report(best * evaluation / 4, evaluation)
            if trial.should_prune():
                stopped.append(place)
                value = best * evaluation / 4 if told is TrialState.COMPLETE else None
                optimised.tell(trial, value, state=told)
                break
        else:
            optimised.tell(trial, best)
    complete = [trial.value for trial in optimised.trials if trial.state == TrialState.COMPLETE]
    return len(stopped), again, max(value for value in complete if value is not None)


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"of {TRIALS} trials: stopped, asked again near a stopped one, best value; one triple for each seed")
    for told in (TrialState.PRUNED, TrialState.COMPLETE):
        outcomes = [study(seed, told) for seed in range(4)]
        print(
            f"told {told.name}: " + ", ".join(f"({n}, {again}, {best:.3f})" for n, again, best in outcomes), flush=True
        )


if __name__ == "__main__":
    main()
