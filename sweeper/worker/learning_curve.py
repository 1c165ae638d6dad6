"""Measures a learning curve: one configuration on nested parts of the training rows, packed, as side runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sweeper.config.schema import Config
from sweeper.config.space import condition_of, grid_values
from sweeper.config.teaching import METRICS
from sweeper.errors import StoreError
from sweeper.events import EventLog
from sweeper.learning.curve import LearningCurve, Point, counts
from sweeper.learning.request import Request, side_number
from sweeper.learning.subsets import nested
from sweeper.paths import StudyPaths, write_atomically
from sweeper.plots.learning_curve import NAME, of_curve
from sweeper.plots.picture import LIGHT, Picture, attempted, write
from sweeper.search.study import Search
from sweeper.search.views import TrialView, examples_of
from sweeper.tracking.tracker import STUDY, Tracker
from sweeper.trial import RunKind
from sweeper.worker.memory import MemoryLog
from sweeper.worker.side import SideResult, SideRuns
from sweeper.worker.side_records import SideRun
from sweeper.worker.spending import Spending
from sweeper.worker.workbench import Workbench

ATTRIBUTE = "learning_curve"  # of the study in its storage
MOST_SEED = 2**31


def start_of(config: Config) -> dict[str, Any]:
    """The configuration that a search is judged by before it has a winner: the first that is queued, or its middle.

    The middle of a range; of choices that are numbers the middle one; of others the fixed one of `lora` and `train`
    where it is among them. What exists only under a condition keeps its fixed value.
    """
    fixed = {**config.lora.model_dump(), **config.train.model_dump()}
    queued = config.search.enqueue[0] if config.search.enqueue else {}
    found: dict[str, Any] = dict(queued)
    for name, parameter in config.search.space.items():
        if name in queued or condition_of(parameter):
            continue
        values = grid_values(name, parameter, points=3)
        numbers = sorted(value for value in values if isinstance(value, int | float) and not isinstance(value, bool))
        if len(numbers) == len(values):
            found[name] = numbers[len(numbers) // 2]
        else:
            found[name] = fixed[name] if fixed.get(name) in values else values[0]
    return found


class LearningCurves:
    """The learning curve of one study."""

    def __init__(
        self,
        paths: StudyPaths,
        config: Config,
        search: Search,
        tracker: Tracker,
        events: EventLog,
        spending: Spending,
    ) -> None:
        self._spending = spending
        self._paths = paths
        self._config = config
        self._search = search
        self._tracker = tracker
        self._events = events

    def measure(
        self, request: Request | None, bench: Workbench, memory: MemoryLog, is_stopping: Callable[[], bool]
    ) -> bool:
        """Measures and keeps the curve that is asked for; without a request, the one that is due before a search.

        It is that of the winner's configuration, or before there is one of the start.

        Returns:
            False where a stop was asked for.

        Raises:
            StoreError: if a training that was asked for did not come to its end.
        """
        study = self._search.seen()
        is_due = self._config.preflight.learning_curve and ATTRIBUTE not in study.attributes
        if request is None and not is_due:
            return True
        baseline = study.attributes["baseline"]
        wanted = request or Request.of(None, None, self._config.objective.has_error(baseline))
        best = study.best
        number, sampled = (best.number, best.params) if best is not None else (None, start_of(self._config))
        runs = self._runs(wanted, number, sampled, bench)
        side = SideRuns(
            RunKind.LEARNING_CURVE,
            self._paths,
            self._config,
            bench,
            memory,
            self._tracker,
            self._events,
            self._spending,
        )
        results = side.train(runs, is_stopping)
        if results is None:
            return False
        if failed := [f"{run.name} ({results[run.number].failure})" for run in runs if results[run.number].failure]:
            problem = f"a learning curve needs each training to come to its end, but not: {', '.join(failed)}"
            if request is not None:
                raise StoreError(problem)
            self._events.write("note", message=f"preflight.learning_curve: {problem}")  # no reason not to search
            return True
        curve = self._curve(number, sampled, runs, results, len(bench.pack.examples))
        self._keep(curve, baseline[curve.metric])
        if request is None:  # or whoever asked shows it
            for line in curve.sentences():
                self._events.write("note", message=line)
        return True

    def _runs(self, wanted: Request, number: int | None, sampled: dict[str, Any], bench: Workbench) -> list[SideRun]:
        """The trainings of a curve, all of them as long as a trial of that configuration.

        Their seeds are not the search's: the winner is the best of many trials, and its own score would bend the
        curve's end upwards.
        """
        params, total = self._config.trial_params(sampled), len(bench.pack.examples)
        rhythm = self._config.rhythm(params, total)
        kinds = [example.answer for example in bench.pack.examples]  # a label's tokens, where there are labels
        subsets = nested(kinds, counts(total, wanted.fractions), self._config.train.seed)
        whose = f"t{number:02d}" if number is not None else "start"
        return [
            SideRun(
                number=side_number(number, index, len(subset), total),
                name=f"curve {whose} {len(subset)} rows" + (f" seed {index}" if wanted.seeds > 1 else ""),
                params=params,
                rhythm=rhythm,
                seed=(self._config.train.seed + 1 + index) % MOST_SEED,
                subset=subset if len(subset) < total else None,
                searched=sampled,
            )
            for index in range(wanted.seeds)
            for subset in reversed(subsets)  # all rows first
        ]

    def _curve(
        self,
        number: int | None,
        sampled: dict[str, Any],
        runs: list[SideRun],
        results: dict[int, SideResult],
        total: int,
    ) -> LearningCurve:
        metric = self._config.objective.metric_name
        by_rows: dict[int, list[dict[str, float]]] = {}
        for run in runs:
            rows = len(run.subset) if run.subset is not None else total
            by_rows.setdefault(rows, []).append(results[run.number].metrics)
        points = [
            Point(
                rows=rows,
                values=tuple(metrics[metric] for metrics in found),
                row_error=sum(metrics.get(f"{metric}_se", 0.0) for metrics in found) / len(found),
            )
            for rows, found in sorted(by_rows.items())
        ]
        return LearningCurve(
            metric=metric,
            trial=number,
            params=sampled,
            is_minimized=self._config.objective.is_minimized,
            is_share=metric in METRICS[self._config.task.name],
            examples=runs[0].rhythm.examples_at(runs[0].rhythm.total_steps),
            seeds=tuple(sorted({run.seed for run in runs})),
            points=tuple(points),
        )

    def _keep(self, curve: LearningCurve, baseline: float) -> None:
        """In the study's folder, with its picture, which may fail; on its run in MLflow; and last in its storage."""
        kept = curve.as_dict()
        write_atomically(self._paths.learning_curve, json.dumps(kept, indent=1))
        made = attempted(NAME, lambda: of_curve(curve, baseline))
        failed = write(made, LIGHT, self._paths.learning_curve_picture) if isinstance(made, Picture) else made
        if failed is not None:
            self._events.write("note", message=f"the picture of the learning curve is left out: {failed.reason}")
        log(self._tracker, self._paths, kept, self._search.views())
        self._search.remember(ATTRIBUTE, kept)


def log(tracker: Tracker, paths: StudyPaths, kept: dict[str, Any], trials: Sequence[TrialView]) -> None:
    """Logs a study's curve on the study's run."""
    for file in (paths.learning_curve, paths.learning_curve_picture):
        if file.is_file():
            tracker.log_file(STUDY, file)
    if kept["twice"] is not None:
        gains = {f"learning_curve/twice_{name}": kept["twice"][name] for name in ("gain", "low", "high")}
        tracker.log(STUDY, gains, examples_of(trials))
