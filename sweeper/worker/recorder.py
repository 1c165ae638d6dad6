"""What a trial leaves behind, kept equal everywhere: its run, its folder, and the events for whoever watches.

The storage is told first, by the session; a recorder that is killed behind it catches up with `reconcile`.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from sweeper import versions
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.engine.slot import Slot
from sweeper.errors import AwayError
from sweeper.events import EventLog
from sweeper.paths import StudyPaths, write_atomically
from sweeper.retention.measure import FULL
from sweeper.search.asking import Asked
from sweeper.search.views import StudyView, TrialView, kept_adapters
from sweeper.tracking.tracker import BASELINE, STUDY, DatasetUse, RunKey, RunState, Tracker
from sweeper.tracking.view import RunsView
from sweeper.trial import RunKind, run_name
from sweeper.worker import costs, side_records, steps
from sweeper.worker.steps import Step

RUN_STATES = {  # what became of a trial, and its run's state in MLflow
    "RUNNING": RunState.RUNNING,
    "WAITING": RunState.SCHEDULED,
    "COMPLETE": RunState.FINISHED,
    "PRUNED": RunState.KILLED,
    "FAIL": RunState.FAILED,
}
MAX_TAG = 4000  # characters; MLflow takes twice as many
MAX_DETAIL = 250  # of them, of what a trial ended by; all of it is in `status`
TRAINED_ON = ("training", "validation")  # the rows that a trial uses
ADAPTER = "adapter"  # the artifact folder of a run that has one


def trial_key(number: int) -> RunKey:
    return RunKey(RunKind.TRIAL, number)


def curve(slot: Slot) -> list[dict[str, float]]:
    """A trial's evaluations so far, each with the training examples seen before it."""
    interval = slot.rhythm.interval_examples
    return [{"examples": interval * index, **values} for index, values in enumerate(slot.evaluations, start=1)]


class Records(Protocol):
    """Where what happens to whatever trains in a pack is said, by its number."""

    events: EventLog
    tracker: Tracker

    def describe(self, number: int) -> str:
        """What it is called in messages."""

    def wait(self, number: int) -> None:
        """Says that it waits, or is interrupted."""


class Recorder:
    """Records the trials of one study."""

    def __init__(self, paths: StudyPaths, config: Config, tracker: Tracker, events: EventLog) -> None:
        self.paths = paths
        self.config = config
        self.tracker = tracker
        self.events = events
        self.is_behind = False  # the runs could not be asked how they stand
        self._tags: dict[str, str] = {}  # of every trial that this session works on
        self._datasets: Sequence[DatasetUse] = ()
        self._without: set[int] = set()  # told trials that have no adapter any more

    def join(
        self,
        first: Mapping[str, str],
        code_sha256: str | None,
        surroundings: Mapping[str, str],
        datasets: Sequence[DatasetUse],
    ) -> dict[str, str]:
        """As `open`, of a study whose run another worker has opened; returns the tags that say where this one works."""
        now = versions.installed()
        self._tags = {"sweeper.versions": versions.in_words(now)}
        if changes := versions.changes(first, now):
            self._tags["sweeper.versions_changed"] = ", ".join(changes)
        self._datasets = datasets
        own = (
            costs.tags(self.config)
            | dict(surroundings)
            | ({"sweeper.code_sha256": code_sha256} if code_sha256 is not None else {})
        )
        self._tags |= own
        return own

    def open(
        self,
        first: Mapping[str, str],
        code_sha256: str | None,
        surroundings: Mapping[str, str],
        datasets: Sequence[DatasetUse],
    ) -> None:
        """Opens the study's run, with its settings and what later launches changed of them.

        Args:
            first: the versions of the libraries at the study's first launch.
            code_sha256: of the code that the study brings, if it does.
            surroundings: tags of the machine and of what is trained.
            datasets: the rows that the study uses.
        """
        own = self.join(first, code_sha256, surroundings, datasets)
        tags = {"sweeper.versions": versions.in_words(first), **own}
        if self.paths.changes.is_file():
            entries = yaml.safe_load(self.paths.changes.read_text(encoding="utf-8"))
            tags["sweeper.changes"] = "\n".join(map(_change, entries))[-MAX_TAG:]
        if warnings := _data_warnings(self.paths):
            tags["sweeper.data_warnings"] = warnings
        self.tracker.start(STUDY, self.config.study.name, {}, tags)
        self.tracker.log_datasets(STUDY, datasets)
        self.tracker.arrange(RunsView.of(self.config))
        for file in (self.paths.config, self.paths.changes, self.paths.data):
            if file.is_file():
                self.tracker.log_file(STUDY, file)

    def reconcile(self, trials: Sequence[TrialView]) -> None:
        """Catches runs and files up with what a killed worker had told the storage, and with its orphans.

        Where the runs are away, they are caught up when the session ends.
        """
        for trial in trials:
            if trial.is_told:
                self.paths.drop_checkpoint(trial.number)
        side_records.drop_checkpoints(self.paths)
        self.reconcile_runs(trials)

    def reconcile_runs(self, trials: Sequence[TrialView]) -> None:
        """Catches runs up, where their store answers."""
        try:
            states = self.tracker.states()
        except AwayError:
            self.is_behind = True
            return
        self.is_behind = False
        for trial in trials:
            key = trial_key(trial.number)
            if trial.state == "RUNNING":
                continue  # whoever has it says so, and may have ended it by now
            if key in states and states[key] is not RUN_STATES[trial.state]:
                if trial.is_told:
                    if trial.same_as is None:
                        self._log_missing(trial.number, trial.curve)
                    self._end_run(trial)
                else:
                    self.tracker.end(key, RUN_STATES[trial.state], _tags(trial.state))
        side_records.reconcile(self.paths, self.tracker, states)

    def conclude(self, trials: Callable[[], Sequence[TrialView]]) -> int:
        """Waits for what is written, as long as a session may; returns how many operations still wait.

        Args:
            trials: reads how they stand.
        """
        if self.tracker.flush() and self.is_behind:
            self.reconcile_runs(trials())
            self.tracker.flush()
        return self.tracker.count

    def begin(self, asked: Asked) -> None:
        """Opens a trial's run and writes its composed configuration."""
        self._open_run(asked, self._tags)
        file = self.paths.trial_config(asked.number)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, check.dump(self.config.for_trial(asked.params)))
        self.tracker.log_file(trial_key(asked.number), file)

    def _open_run(self, trial: Asked | TrialView, more: Mapping[str, str]) -> None:
        tags = {"sweeper.state": "RUNNING", "sweeper.is_informed": str(trial.is_informed), **more}
        if trial.start is not None:
            tags["sweeper.start"] = trial.start
        key = trial_key(trial.number)
        self.tracker.start(key, run_name(trial.number, trial.params), trial.params, tags)
        self.tracker.log_datasets(key, [used for used in self._datasets if used.context in TRAINED_ON])

    def baseline(self, scores: Mapping[str, float]) -> None:
        """Records what the untuned base scores."""
        self.tracker.start(BASELINE, "baseline (untuned base)", {}, {})
        self.tracker.log_datasets(BASELINE, [used for used in self._datasets if used.context != TRAINED_ON[0]])
        self.tracker.log_missing(BASELINE, self.config.objective.metric_name, [(0, dict(scores))])
        self.tracker.end(BASELINE, RunState.FINISHED, {})

    def catch_up(self, trials: Sequence[TrialView], baseline: Mapping[str, float] | None) -> None:
        """Makes the runs of what had ended before the study's runs went to where the tracker is.

        They have what the storage knows: parameters, evaluations, constraints, ends. The course of a loss and the
        memory's stay where they were.
        """
        # Whatever is there was begun by a session that did not come to its end, so all of it is made again.
        if baseline is not None:
            self.baseline(baseline)
        for trial in trials:
            key, file = trial_key(trial.number), self.paths.trial_config(trial.number)
            if not trial.is_told and not trial.curve:
                continue  # its run is made when it begins
            self._open_run(trial, {})
            if file.is_file():
                self.tracker.log_file(key, file)
            if trial.same_as is None:  # or its end has them
                self._log_missing(trial.number, trial.curve)
            if trial.is_told:
                self._end_run(trial)
            else:
                self.wait(trial.number)
        side_records.catch_up(self.paths, self.tracker)

    def train(self, asked: Asked, slot: Slot) -> None:
        """Says that a trial trains, from the beginning or from a checkpoint."""
        if slot.evaluations:
            self._log_missing(asked.number, curve(slot))
        self.events.write(
            "trial_started",
            number=asked.number,
            name=run_name(asked.number, asked.params),
            step=slot.step,
            steps=slot.rhythm.total_steps,
            is_informed=asked.is_informed,
        )

    def attach(self, number: int, file: Path) -> None:
        """Adds a file to a trial's run."""
        self.tracker.log_file(trial_key(number), file)

    def step(self, step: Step) -> None:
        """Logs one optimizer step of each slot, and what it took."""
        step.note()
        step.log(lambda number, metrics, examples: self.tracker.log(trial_key(number), metrics, examples), self.events)

    def evaluations(self, slots: Sequence[Slot]) -> None:
        """Logs the latest evaluation of each slot."""
        for slot in slots:
            point = curve(slot)[-1]
            self._log_evaluation(slot.number, point)
            self.events.write("evaluation", number=slot.number, index=len(slot.evaluations), **point)

    def settle(self) -> None:
        """Before a trial is told: what is told is written, unless the store is away, which is not waited for."""
        self.tracker.settle()

    def _log_missing(self, number: int, points: Sequence[dict[str, float]]) -> None:
        """Logs what a worker measured that ended before the tracker had it."""
        made = [(int(point["examples"]), _scores(point)) for point in points]
        self.tracker.log_missing(trial_key(number), self.config.objective.metric_name, made)

    def _log_evaluation(self, number: int, point: dict[str, float]) -> None:
        self.tracker.log(trial_key(number), _scores(point), int(point["examples"]))

    def end(self, trial: TrialView) -> None:
        """Ends a trial's run and drops its checkpoint, after it has been told."""
        self._end_run(trial)
        self.paths.drop_checkpoint(trial.number)
        self.events.write(
            "trial_ended",
            number=trial.number,
            name=run_name(trial.number, trial.params),
            state=trial.state,
            reason=trial.reason,
            same_as=trial.same_as,
            is_rejected=trial.is_rejected,
            violates=[name for name, value in trial.constraints.items() if value > 0],
            value=trial.metrics.get(self.config.objective.metric_name),
        )

    def _end_run(self, trial: TrialView) -> None:
        key, examples = trial_key(trial.number), trial.examples_seen or 0
        if trial.same_as is not None:  # it was not trained, and has the evaluations of the one that it equals
            for point in trial.curve:
                self._log_evaluation(trial.number, point)
        metrics = {f"constraint/{name}": value for name, value in trial.constraints.items()}
        metrics |= {name: value for name, value in trial.metrics.items() if name.startswith(FULL)}
        metrics |= steps.summary(trial.took, trial.train_tokens)
        metrics["evaluations"] = len(trial.evaluations)
        if trial.duration_s is not None:
            metrics["duration_s"] = trial.duration_s
        if trial.value is not None:
            metrics["best_value"] = trial.value
        if trial.evaluations:
            metrics["last_value"] = trial.evaluations[-1]
        self.tracker.log(key, metrics, examples)
        self.tracker.end(key, RUN_STATES[trial.state], _end_tags(trial))

    def describe(self, number: int) -> str:
        """What a trial is called in messages."""
        return f"trial {number}"

    def wait(self, number: int) -> None:
        """Says that a trial is interrupted."""
        self.tracker.end(trial_key(number), RunState.SCHEDULED, _tags("WAITING"))

    def keep_best_adapters(self, seen: StudyView, tracked: Sequence[int]) -> list[int]:
        """Keeps the adapters of the best trials, on disk and in MLflow; deletes the others'.

        Args:
            tracked: the trials whose adapters MLflow has.

        Returns:
            Those whose adapters are kept and that MLflow has then.
        """
        kept = kept_adapters(seen, self.paths, self.config)
        here = [number for number in kept if self.paths.adapter(number).is_dir()]  # or another machine has it
        for number in here:
            if number not in tracked:
                self.tracker.log_file(trial_key(number), self.paths.adapter(number), ADAPTER)
        for trial in seen.trials:
            if not trial.is_told or trial.number in self._without or trial.number in kept:
                continue  # one that is not told yet may be about to be
            folder = self.paths.adapter(trial.number)
            if folder.is_dir():
                self.tracker.drop_files(trial_key(trial.number), ADAPTER)  # first, for the folder says that it is due
                shutil.rmtree(folder, ignore_errors=True)
            if not folder.is_dir() and not self.paths.home.is_on_server:  # else it may come from another machine
                self._without.add(trial.number)
        return [number for number in kept if number in here or number in tracked]


def _scores(point: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in point.items() if name != "examples"}


def _data_warnings(paths: StudyPaths) -> str | None:
    """What was found in the rows and did not stop the launch, by code: `near-duplicates 12, allowed leak-test 3`."""
    if not paths.data.is_file():
        return None
    found = json.loads(paths.data.read_text(encoding="utf-8"))["findings"]
    is_allowed = {True: "allowed ", False: ""}
    return ", ".join(f"{is_allowed[one['severity'] == 'allowed']}{one['code']} {one['count']}" for one in found)


def _change(entry: dict[str, Any]) -> str:
    """An entry of the study's changes.yaml in a line; the file itself is among the run's artifacts."""
    words = [f"{change['key']} {change['was']} → {change['now']}" for change in entry["changes"]]
    words += entry.get("versions", [])
    words += [f"{key} had no value before" for key in entry.get("defaults", [])]
    return f"{entry['time']}, after {entry['trials']} trials: {'; '.join(words)}"


def _tags(state: str, reason: str | None = None) -> dict[str, str]:
    return {"sweeper.state": state, **({"sweeper.reason": reason} if reason else {})}


def _end_tags(trial: TrialView) -> dict[str, str]:
    """How a trial ended."""
    tags = _tags(trial.state, trial.reason)
    if trial.detail:
        tags["sweeper.detail"] = textwrap.shorten(trial.detail, MAX_DETAIL, placeholder=" …")
    if trial.same_as is not None:
        tags["sweeper.same_as"] = str(trial.same_as)
    if "pack_size_mean" in trial.took:
        tags["sweeper.pack_size"] = f"{trial.took['pack_size_mean']:.3g}, at most {trial.took['pack_size_max']}"
    return tags
