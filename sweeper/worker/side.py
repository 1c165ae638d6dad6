"""Side runs: trainings in the pack that are no trials of the search, such as those that confirm a winner.

They train together as trials do, up to `engine.slots`, with the same checkpoints, evictions and evaluations, but
Optuna never hears of them. What came of each is kept in a folder of its own: a run that is there, with the same
settings, is not trained again. A stop or a kill loses what is behind the last checkpoint of those in flight.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeper.config.schema import Config
from sweeper.engine.bucket import AdapterState
from sweeper.engine.pack import Slot
from sweeper.errors import CustomCodeError, LostRoomError, OutOfRoomError, TrackingError
from sweeper.events import EventLog
from sweeper.mistakes import kept
from sweeper.paths import StudyPaths, write_atomically
from sweeper.search.study import Asked
from sweeper.tracking.tracker import RunKey, RunState, Tracker
from sweeper.trial import Reason, Rhythm, RunKind, TrialParams
from sweeper.worker.checkpoints import Checkpoints
from sweeper.worker.memory import MemoryLog
from sweeper.worker.recorder import curve, step_metrics, write_tick
from sweeper.worker.room import Room
from sweeper.worker.workbench import Scored, Split, Workbench


@dataclass(frozen=True)
class SideRun:
    """A training that is asked for.

    Attributes:
        number: its own among the study's runs of its kind, for ever.
        name: what persons see.
        subset: the training rows that it sees, as indices into the bench's; None: all of them.
        tags: of its run in MLflow.
    """

    number: int
    name: str
    params: TrialParams
    rhythm: Rhythm
    seed: int
    subset: tuple[int, ...] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SideResult:
    """What came of one.

    Attributes:
        curve: every evaluation on the validation split: examples seen, metrics, standard errors.
        metrics: of the evaluation that `objective.value` chooses.
        scores: of that evaluation's adapter on the rows that it was to be scored on at its end; None without any.
        texts: what it predicted for those.
        failure: why it has no such evaluation: that it diverged, or did not fit; None where it ran to its end.
    """

    number: int
    curve: list[dict[str, float]]
    metrics: dict[str, float]
    scores: dict[str, float] | None
    texts: list[str] | None
    duration_s: float
    train_tokens: int
    failure: str | None


class SideRuns:
    """Trains and keeps the side runs of one kind."""

    def __init__(
        self,
        kind: RunKind,
        paths: StudyPaths,
        config: Config,
        bench: Workbench,
        memory: MemoryLog,
        tracker: Tracker,
        events: EventLog,
    ) -> None:
        self._kind, self._paths, self._config, self._bench = kind, paths, config, bench
        self._records = _Records(kind, tracker, events)
        self._checkpoints = Checkpoints(
            paths, config, self._records, lambda number: paths.side_checkpoint(kind.value, number)
        )
        self._room = Room(config, bench, memory, self._checkpoints, self._records, self._refuse, self._empty)
        self._runs: dict[int, SideRun] = {}
        self._todo: list[int] = []
        self._ended: dict[int, tuple[Slot, str | None]] = {}  # and what failed, if something did

    def train(
        self, runs: Sequence[SideRun], is_stopping: Callable[[], bool], scored_on: tuple[str, Split] | None = None
    ) -> dict[int, SideResult] | None:
        """Trains those that have not been trained, and scores each at its end.

        Args:
            scored_on: rows beside the validation split, and what stands before their metrics in MLflow.

        Returns:
            What came of each, by its number; None where a stop was asked for: the same call goes on.

        Raises:
            OutOfRoomError: if others hold the memory for longer than `memory.wait_s`.
        """
        self._runs = {run.number: run for run in runs}
        split = scored_on[1] if scored_on is not None else None
        found = {run.number: known for run in runs if (known := self._known(run, split)) is not None}
        self._records.names = {run.number: run.name for run in runs}
        self._todo, self._ended = [number for number in self._runs if number not in found], {}
        is_whole = False
        try:
            is_whole = self._train(is_stopping)
        except (OutOfRoomError, CustomCodeError, TrackingError):
            self._save()
            raise
        else:
            if not is_whole:
                self._save()
                return None
        finally:
            self._bench.pack.slots = []
            self._bench.pack.stack.clear()
        for number, (slot, failure) in self._ended.items():
            found[number] = self._conclude(slot, failure, scored_on)
        return {number: found[number] for number in self._runs}

    def _train(self, is_stopping: Callable[[], bool]) -> bool:
        """Trains until all have ended; False where a stop was asked for."""
        while True:
            try:
                return self._loop(is_stopping)
            except LostRoomError as error:
                message = str(error)
            # Out of the `except` block, which holds what is to be freed.
            self._todo = [slot.number for slot in self._bench.pack.slots if slot.number not in self._ended] + self._todo
            self._room.clear()
            self._records.events.write("note", message=message)

    def _loop(self, is_stopping: Callable[[], bool]) -> bool:
        pack = self._bench.pack
        while not is_stopping():
            self._refill(is_stopping)
            if not pack.slots:
                if not self._room.waiting and not self._todo:
                    return True
                continue
            started = time.monotonic()
            diverged: list[Slot] = []
            if not any(slot.is_due for slot in pack.slots):
                ticks = self._room.within(pack.tick, is_stopping)
                if ticks is None:
                    continue
                for slot, tick in zip(pack.slots, ticks, strict=True):
                    metrics = step_metrics(slot, tick, pack.planner.step)
                    self._records.log(slot.number, metrics, slot.examples_seen)
                write_tick(self._records.events, pack.slots, ticks)
                diverged = [slot for slot, tick in zip(pack.slots, ticks, strict=True) if not tick.is_finite]
            for slot in diverged:
                self._end(slot, Reason.DIVERGED.value)
            self._evaluate(is_stopping)
            for slot in pack.slots:
                slot.duration_s += time.monotonic() - started
            for slot in [slot for slot in pack.slots if slot.is_finished and slot.is_at_evaluation]:
                self._end(slot, None)
            self._checkpoints.save_due(pack)
        return False

    def _refill(self, is_stopping: Callable[[], bool]) -> None:
        """Lets in what waits, then what has not begun."""
        while not is_stopping():
            if self._room.waiting:
                asked = self._room.next_waiting()
            elif self._todo and len(self._bench.pack.slots) < self._config.engine.slots:
                asked = Asked(self._todo.pop(0), params={}, is_informed=False, crashes=0, start=None)
            else:
                return
            if asked is None:
                return
            self._records.begin(self._runs[asked.number])
            slot = self._room.admit(asked)
            if slot is None:
                if asked.number in self._ended:
                    continue
                return  # the pack must move first
            self._checkpoints.start(slot.number)
            self._records.train(self._runs[slot.number], slot)
            if slot.is_finished and slot.is_at_evaluation:  # it was interrupted before it was scored at its end
                self._end(slot, None)

    def _empty(self, asked: Asked) -> Slot:
        run = self._runs[asked.number]
        return Slot(run.number, run.params, run.rhythm, run.seed, run.subset)

    def _evaluate(self, is_stopping: Callable[[], bool]) -> None:
        """Scores the slots that are due on the validation split, together."""
        due = [slot for slot in self._bench.pack.slots if slot.is_due]
        if not due:
            return
        self._records.events.write("evaluating", numbers=[slot.number for slot in due])

        def evaluate() -> list[Slot]:
            here = [slot for slot in due if slot in self._bench.pack.slots]
            if here:
                self._bench.evaluate(here, self._config)
            return here

        for slot in self._room.within(evaluate, is_stopping) or []:
            point = curve(slot)[-1]
            self._records.evaluation(slot.number, len(slot.evaluations), point)

    def _end(self, slot: Slot, failure: str | None) -> None:
        """Takes a run out of the pack; its best adapter is in its checkpoint, or in memory where there is none."""
        if failure is None and self._checkpoints.save(self._bench.pack, slot):
            slot.best_adapter = None
        self._ended[slot.number] = (slot, failure)
        self._room.leave(slot)

    def _refuse(self, slot: Slot, failure: str) -> None:
        """A run does not fit, not even alone."""
        self._ended[slot.number] = (slot, failure)

    def _save(self) -> None:
        """Checkpoints what is in flight."""
        for slot in self._bench.pack.slots:
            self._checkpoints.save(self._bench.pack, slot)
            self._records.wait(slot.number)
        for waiting in self._room.waiting.values():
            if waiting.progress is not None:
                self._checkpoints.save(self._bench.pack, *waiting.progress)
        self._room.waiting.clear()
        self._room.asked.clear()

    def _conclude(self, slot: Slot, failure: str | None, scored_on: tuple[str, Split] | None) -> SideResult:
        """Scores a run at its end, keeps what came of it, and ends its run."""
        run, scored = self._runs[slot.number], None
        if failure is None and scored_on is not None:
            scored = self._scored(slot, scored_on[1])
        best = slot.evaluations[slot.best_evaluation] if slot.best_evaluation is not None else {}
        values: dict[str, Any] = {
            "curve": curve(slot),
            "metrics": best,
            "scores": scored.scores.as_dict() if scored is not None else None,
            "duration_s": round(slot.duration_s, 3),
            "train_tokens": slot.train_tokens,
            "failure": failure,
        }
        split = scored_on[1] if scored_on is not None else None
        if scored is not None and split is not None:
            predictions = self._paths.side_predictions(self._kind.value, slot.number)
            self._bench.keep(predictions, split, scored.predictions)
        if failure in (None, Reason.DIVERGED.value):  # memory may be more another time
            file = self._paths.side_result(self._kind.value, slot.number)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps({"of": _settings(run, split), **values}, indent=1))
            self._paths.side_checkpoint(self._kind.value, slot.number).unlink(missing_ok=True)
        scores = (
            {f"{scored_on[0]}/{name}": value for name, value in (values["scores"] or {}).items()} if scored_on else {}
        )
        self._records.end(run, slot, scores, failure)
        return SideResult(number=slot.number, texts=scored.texts if scored is not None else None, **values)

    def _scored(self, slot: Slot, split: Split) -> Scored:
        state = slot.best_adapter
        if state is None:
            loaded = self._checkpoints.load(slot.number)
            assert loaded is not None  # it was written by this process
            state = loaded[0].best_adapter
        assert state is not None
        weights: AdapterState = state
        return self._room.outlast(lambda: self._bench.score_adapter(slot.params, weights, split))

    def _known(self, run: SideRun, split: Split | None) -> SideResult | None:
        """What came of a run of the same settings before."""
        file = self._paths.side_result(self._kind.value, run.number)
        if not file.is_file():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("of") != _settings(run, split):
            return None
        texts = None
        if values["scores"] is not None:
            texts = [one.prediction for one in kept.read(self._paths.side_predictions(self._kind.value, run.number))]
        return SideResult(number=run.number, texts=texts, **values)


def _settings(run: SideRun, split: Split | None) -> dict[str, Any]:
    """What a result depends on, beside what is the same for the whole study."""
    return {
        "params": run.params.model_dump(mode="json"),
        "rhythm": run.rhythm.model_dump(mode="json"),
        "seed": run.seed,
        "subset": _sha256(run.subset),
        "scored_on": _sha256(split.ids if split is not None else None),
    }


def _sha256(value: Sequence[object] | None) -> str | None:
    return None if value is None else hashlib.sha256(json.dumps(value).encode()).hexdigest()


class _Records:
    """The runs of side runs in MLflow, and the events for whoever watches."""

    def __init__(self, kind: RunKind, tracker: Tracker, events: EventLog) -> None:
        self.tracker = tracker
        self.events = events
        self.names: dict[int, str] = {}
        self._kind = kind

    def describe(self, number: int) -> str:
        return self.names[number]

    def begin(self, run: SideRun) -> None:
        params = {**run.params.model_dump(mode="json"), "seed": run.seed}
        if run.subset is not None:
            params["train_rows"] = len(run.subset)
        self.tracker.start(self._key(run.number), run.name, params, {"sweeper.state": "RUNNING", **run.tags})

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
        values = {name: value for name, value in point.items() if name != "examples"}
        self.log(number, values, int(point["examples"]))
        self.events.write("evaluation", number=number, index=index, **point)

    def wait(self, number: int) -> None:
        self.tracker.end(self._key(number), RunState.SCHEDULED, {"sweeper.state": "WAITING"})

    def end(self, run: SideRun, slot: Slot, scores: dict[str, float], failure: str | None) -> None:
        self.log(run.number, {**scores, "duration_s": slot.duration_s}, slot.examples_seen)
        state, name = (RunState.FINISHED, "COMPLETE") if failure is None else (RunState.KILLED, "PRUNED")
        tags = {"sweeper.state": name, **({"sweeper.reason": failure} if failure is not None else {})}
        self.tracker.end(self._key(run.number), state, tags)
        self.events.write(
            "side_ended", number=run.number, kind=self._kind.value, name=run.name, failure=failure, **scores
        )

    def _key(self, number: int) -> RunKey:
        return RunKey(self._kind, number)
