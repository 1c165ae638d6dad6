"""Confirms the best of a search: each is trained again on fresh seeds and judged on rows that the search did not score.

That chooses the *configuration*. The weights that are exported stay those of the original trial, and these are what the
test split scores, afterwards and once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sweeper.config.schema import MOST_SEEDS, Config
from sweeper.engine import adapter
from sweeper.money.booking import Activity, Whose
from sweeper.paths import StudyPaths
from sweeper.search.choice import Candidate, Choice, choose, cost_classes
from sweeper.search.study import Search
from sweeper.search.views import CONFIRMATION, TrialView, examples_of
from sweeper.tracking.tracker import STUDY, Tracker
from sweeper.trial import Reason, RunKind
from sweeper.worker.recorder import Recorder, trial_key
from sweeper.worker.side import SideResult, SideRuns
from sweeper.worker.side_records import SideRun
from sweeper.worker.spending import Spending
from sweeper.worker.workbench import Scored, Split, Workbench

Outlast = Callable[[Callable[[], Scored]], Scored]


def fresh_seeds(seed: int, count: int) -> list[int]:
    """Seeds that no trial of the search had, the same ones for every configuration."""
    states = [int(state) % 2**31 for state in np.random.SeedSequence((seed, MOST_SEEDS)).generate_state(count + 1)]
    return [state for state in states if state != seed][:count]


@dataclass(frozen=True)
class _Confirmed:
    """A finalist with what came of it."""

    trial: TrialView
    results: list[SideResult]  # of each seed
    original: Scored  # its own adapter, on the same rows
    parameters: int  # of its adapter
    failures: list[str]  # of trainings that came to no end, or lost too much of what the base could do

    @property
    def size(self) -> tuple[float, ...]:
        """What is cheaper where the time is not known: fewer parameters; of as many, fewer tokens to train on."""
        return (self.parameters, sum(result.train_tokens for result in self.results))


def _costs(found: Sequence[_Confirmed]) -> list[tuple[float, ...]]:
    """What each cost: the time of its trial alone, and of as long ones its size.

    The time that it took is none: that is of all that train together.
    """
    alone = [one.trial.solo_s for one in found]
    known = [seconds for seconds in alone if seconds is not None]
    if len(known) < len(alone):  # of a study from before that was measured
        return [one.size for one in found]
    return [(place, *one.size) for place, one in zip(cost_classes(known), found, strict=True)]


class Confirmation:
    """Confirms the finalists of one study."""

    def __init__(
        self, paths: StudyPaths, config: Config, search: Search, recorder: Recorder, spending: Spending
    ) -> None:
        self._spending = spending
        self._paths, self._config, self._search, self._recorder = paths, config, search, recorder
        self._metric = config.objective.metric_name

    def run(self, bench: Workbench, side: SideRuns, outlast: Outlast, is_stopping: Callable[[], bool]) -> bool:
        """Confirms the best trials where that is due, and remembers what was chosen.

        Args:
            side: trains runs of the kind `confirmation`.
            outlast: does what needs the base and no trial, and waits for memory.

        Returns:
            False where a stop was asked for: the same call goes on.
        """
        seen, split = self._search.seen(), bench.confirmation
        if split is None or not seen.must_be_confirmed(self._config):
            return True
        finalists = seen.finalists(self._config.confirmation.top)
        here = [trial for trial in finalists if self._paths.adapter(trial.number).is_dir()]
        seeds = fresh_seeds(self._config.train.seed, self._config.confirmation.seeds)
        self._recorder.events.write("confirming", numbers=[trial.number for trial in here], seeds=len(seeds))
        runs = {trial.number: self._runs(bench, trial, seeds) for trial in here}
        results = side.train([run for own in runs.values() for run in own], is_stopping, (CONFIRMATION, split))
        if results is None:
            return False
        found = [
            self._confirmed(bench, trial, [results[run.number] for run in runs[trial.number]], split, outlast)
            for trial in here
        ]
        choice = self._choose(bench, split, found)
        self._remember(finalists, seeds, split, found, choice)
        return True

    def _runs(self, bench: Workbench, trial: TrialView, seeds: Sequence[int]) -> list[SideRun]:
        params = self._config.trial_params(trial.params)
        rhythm = self._config.rhythm(params, len(bench.pack.examples))
        return [
            SideRun(
                number=trial.number * 2 * MOST_SEEDS + place,
                name=f"confirm t{trial.number:02d} seed {place}",
                params=params,
                rhythm=rhythm,
                seed=seed,
                tags={"sweeper.confirms": str(trial.number)},
                searched=trial.params,
            )
            for place, seed in enumerate(seeds, start=1)
        ]

    def _confirmed(
        self, bench: Workbench, trial: TrialView, results: list[SideResult], split: Split, outlast: Outlast
    ) -> _Confirmed:
        params = self._config.trial_params(trial.params)
        weights = adapter.read(self._paths.adapter(trial.number), params)
        self._spending.book(Activity.OVERHEAD)
        original = outlast(partial(bench.score_adapter, params, weights, split))
        whose = [Whose(RunKind.CONFIRMATION, results[0].number)] if results else []
        self._spending.scored(Activity.EVALUATE, len(split.rows), whose)
        size = sum(tensor.numel() for tensor in weights.tensors["weight"].values())
        failures = [result.failure for result in results if result.failure is not None]
        if bench.retention is not None:
            measured = [result.metrics for result in results if result.failure is None]
            failures += [Reason.WRECKED.value for values in measured if bench.retention.sampled.is_wrecked(values)]
        return _Confirmed(trial, results, original, size, failures)

    def _choose(self, bench: Workbench, split: Split, found: Sequence[_Confirmed]) -> Choice | None:
        """Compares those that trained on every seed; None where none did."""
        resampler = bench.resampler(split, self._config)
        candidates = []
        for one, cost in zip(found, _costs(found), strict=True):
            scored = [resampler.score(result.texts) for result in one.results if result.texts is not None]
            if not one.failures:
                values, draws = np.asarray([s.value for s in scored]), np.stack([s.draws for s in scored])
                candidates.append(Candidate(one.trial.number, values, draws, cost))
        if not candidates:
            return None
        return choose(candidates, self._config.objective.is_minimized, self._config.search.seed)

    def _remember(
        self,
        finalists: Sequence[TrialView],
        seeds: Sequence[int],
        split: Split,
        found: Sequence[_Confirmed],
        choice: Choice | None,
    ) -> None:
        sign = -1.0 if self._config.objective.is_minimized else 1.0
        records = [self._record(one) for one in found]
        records.sort(key=lambda one: (bool(one["failures"]), -sign * (one["mean"] or 0.0)))
        outcome: dict[str, Any] = {
            "top": self._config.confirmation.top,
            "finalists": [trial.number for trial in finalists],
            "seeds": list(seeds),
            "rows": len(split.rows),
            "metric": self._metric,
            "candidates": records,
            # Without one that trained on every seed there is nothing to choose by but the search itself.
            "leader": choice.leader if choice is not None else finalists[0].number,
            "chosen": choice.chosen if choice is not None else finalists[0].number,
            "tied": choice.tied if choice is not None else [],
            "versus": [one.as_dict() for one in choice.versus] if choice is not None else [],
        }
        log(self._recorder.tracker, outcome, self._search.views())
        self._recorder.settle()
        self._search.remember(CONFIRMATION, outcome)
        self._recorder.events.write("confirmed", number=outcome["chosen"], tied=outcome["tied"])

    def _record(self, one: _Confirmed) -> dict[str, Any]:
        values = [result.scores[self._metric] for result in one.results if result.scores is not None]
        return {
            "trial": one.trial.number,
            "values": values,
            "mean": float(np.mean(values)) if values else None,
            "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "failures": one.failures,
            "original": one.original.scores.as_dict(),
            "parameters": one.parameters,
            "solo_s": one.trial.solo_s,
        }


def log(tracker: Tracker, outcome: dict[str, Any], trials: Sequence[TrialView]) -> None:
    """Logs what was confirmed on the runs of the finalists, and of the chosen one on the study's."""
    metric, examples = outcome["metric"], {trial.number: trial.examples_seen or 0 for trial in trials}
    for one in outcome["candidates"]:
        values = {"mean": one["mean"], "spread": one["spread"], "original": one["original"][metric]}
        known = {f"confirmation/{metric}_{name}": value for name, value in values.items() if value is not None}
        tracker.log(trial_key(one["trial"]), known, examples[one["trial"]])
        if one["trial"] == outcome["chosen"]:
            tracker.log(STUDY, known, examples_of(trials))
