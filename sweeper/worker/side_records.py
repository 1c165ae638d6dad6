"""The runs of side runs in MLflow: while they train, and again from what is kept of those that have ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.engine.slot import Slot
from sweeper.events import EventLog
from sweeper.paths import StudyPaths
from sweeper.tracking.tracker import DatasetUse, RunKey, RunState, Tracker
from sweeper.trial import Rhythm, RunKind, TrialParams
from sweeper.worker.steps import summary, taken

KINDS = (RunKind.CONFIRMATION, RunKind.LEARNING_CURVE)


@dataclass(frozen=True)
class SideRun:
    """A training that is asked for.

    Attributes:
        number: its own among the study's runs of its kind, for ever.
        name: what persons see.
        subset: the training rows that it sees, as indices into the bench's; None: all of them.
        tags: of its run in MLflow.
        searched: what its configuration has of the search space, as the run of its trial has it.
    """

    number: int
    name: str
    params: TrialParams
    rhythm: Rhythm
    seed: int
    subset: tuple[int, ...] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    searched: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tracked_params(self) -> dict[str, Any]:
        """The parameters of its run in MLflow: in one column with its trial's, and what it has beside them."""
        rows = {"train_rows": len(self.subset)} if self.subset is not None else {}
        return {**self.searched, "seed": self.seed, **rows}


class SideRecords:
    """The runs of one kind of side runs in MLflow, and the events for whoever watches."""

    def __init__(self, kind: RunKind, tracker: Tracker, events: EventLog, datasets: Sequence[DatasetUse] = ()) -> None:
        self._datasets = datasets  # that each of them uses
        self.tracker = tracker
        self.events = events
        self.names: dict[int, str] = {}
        self._kind = kind

    def describe(self, number: int) -> str:
        return self.names[number]

    def begin(self, run: SideRun) -> None:
        tags = {"sweeper.state": "RUNNING", **run.tags}
        self.tracker.start(self._key(run.number), run.name, run.tracked_params, tags)
        self.tracker.log_datasets(self._key(run.number), self._datasets)

    def train(self, run: SideRun, slot: Slot) -> None:
        self.events.write(
            "side_started",
            number=run.number,
            kind=self._kind.value,
            name=run.name,
            step=slot.step,
            steps=slot.rhythm.total_steps,
        )

    def log(self, number: int, metrics: dict[str, float], examples: int) -> None:
        self.tracker.log(self._key(number), metrics, examples)

    def evaluation(self, number: int, index: int, point: dict[str, float]) -> None:
        _log_evaluation(self.tracker, self._key(number), point)
        self.events.write("evaluation", number=number, kind=self._kind.value, index=index, **point)

    def wait(self, number: int) -> None:
        _wait(self.tracker, self._key(number))

    def end(self, run: SideRun, known: dict[str, Any], scores: dict[str, float], failure: str | None) -> None:
        _end(self.tracker, self._key(run.number), known, failure)
        self.events.write(
            "side_ended", number=run.number, kind=self._kind.value, name=run.name, failure=failure, **scores
        )

    def _key(self, number: int) -> RunKey:
        return RunKey(self._kind, number)


def tracked(run: SideRun, slot: Slot, scores: Mapping[str, float], failure: str | None) -> dict[str, Any]:
    """What MLflow has of a run that has ended, beside its evaluations: enough to say it again."""
    name = "COMPLETE" if failure is None else "PRUNED"
    return {
        "name": run.name,
        "params": run.tracked_params,
        "tags": {"sweeper.state": name, **({"sweeper.reason": failure} if failure else {}), **run.tags},
        "metrics": {
            **scores,
            "duration_s": slot.duration_s,
            "evaluations": len(slot.evaluations),
            **summary(taken(slot), slot.train_tokens),
        },
        "examples": slot.examples_seen,
    }


def read(file: Path) -> dict[str, Any] | None:
    """What is kept of a side run; None where there is nothing, or it is damaged."""
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return values


def drop_checkpoints(paths: StudyPaths) -> None:
    """Deletes those of runs that have ended."""
    for key, _ in _ended(paths):
        paths.side_checkpoint(key.kind.value, key.number or 0).unlink(missing_ok=True)


def reconcile(paths: StudyPaths, tracker: Tracker, states: Mapping[RunKey, RunState]) -> None:
    """Catches runs up with what was kept before a kill, or while the tracking server was down."""
    ended = dict(_ended(paths))
    for key, values in ended.items():
        if states.get(key) in (RunState.RUNNING, RunState.SCHEDULED):
            _end(tracker, key, values["tracked"], values["failure"])
    for key, state in states.items():
        if key.kind in KINDS and key not in ended and state is RunState.RUNNING:
            _wait(tracker, key)


def catch_up(paths: StudyPaths, tracker: Tracker) -> None:
    """Makes the runs of those that had ended before the study's runs went to where the tracker is."""
    for key, values in _ended(paths):
        known = values["tracked"]
        tracker.start(key, known["name"], known["params"], known["tags"])
        for point in values["curve"]:
            _log_evaluation(tracker, key, point)
        _end(tracker, key, known, values["failure"])


def _ended(paths: StudyPaths) -> Iterator[tuple[RunKey, dict[str, Any]]]:
    for kind, number in paths.side_runs():
        values = read(paths.side_result(kind, number))
        if kind in KINDS and values is not None and "tracked" in values:  # it has not always been kept
            yield RunKey(RunKind(kind), number), values


def _log_evaluation(tracker: Tracker, key: RunKey, point: dict[str, float]) -> None:
    values = {name: value for name, value in point.items() if name != "examples"}
    tracker.log(key, values, int(point["examples"]))


def _wait(tracker: Tracker, key: RunKey) -> None:
    tracker.end(key, RunState.SCHEDULED, {"sweeper.state": "WAITING"})


def _end(tracker: Tracker, key: RunKey, known: dict[str, Any], failure: str | None) -> None:
    tracker.log(key, known["metrics"], known["examples"])
    tracker.end(key, RunState.FINISHED if failure is None else RunState.KILLED, known["tags"])
