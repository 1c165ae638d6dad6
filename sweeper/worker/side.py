"""Side runs: trainings in the pack that are no trials of the search, such as those that confirm a winner.

They train together as trials do, up to `engine.slots`, with the same checkpoints, evictions and evaluations, but
Optuna never hears of them. What came of each is kept in a folder of its own: a run that is there, with the same
settings, is not trained again. A stop or a kill loses what is behind the last checkpoint of those in flight.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.schema import Config
from sweeper.engine.bucket import AdapterState
from sweeper.engine.slot import Slot
from sweeper.errors import CustomCodeError, OutOfRoomError, TrackingError
from sweeper.events import EventLog
from sweeper.mistakes import kept
from sweeper.money.booking import Activity, Whose
from sweeper.paths import StudyPaths, write_atomically
from sweeper.search.asking import Asked
from sweeper.tracking.tracker import Tracker
from sweeper.trial import Reason, RunKind
from sweeper.worker.checkpoints import Checkpoints
from sweeper.worker.memory import MemoryLog
from sweeper.worker.recorder import curve
from sweeper.worker.room import Room
from sweeper.worker.side_records import SideRecords, SideRun, read, tracked
from sweeper.worker.spending import BudgetSpent, Spending
from sweeper.worker.steps import Step
from sweeper.worker.workbench import Scored, Split, Workbench


@dataclass(frozen=True)
class SideResult:
    """What came of one.

    Attributes:
        curve: every evaluation on the validation split: examples seen, metrics, standard errors.
        metrics: of the evaluation that `objective.value` chooses.
        scores: of that evaluation's adapter on the rows that it was to be scored on at its end; None without any.
        texts: what it predicted for those.
        duration_s: wall seconds in the pack, shared with its neighbours: no measure of what it costs.
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
        spending: Spending,
    ) -> None:
        self._spending = spending
        self._kind, self._paths, self._config, self._bench = kind, paths, config, bench
        rows = ("training", "confirmation") if kind is RunKind.CONFIRMATION else ()
        self._records = SideRecords(kind, tracker, events, [used for used in bench.datasets if used.context in rows])
        self._checkpoints = Checkpoints(
            paths, config, self._records, lambda number: paths.side_checkpoint(kind.value, number)
        )
        self._room = Room(
            config, bench, memory, self._checkpoints, self._records, self._refuse, self._empty, spending.book
        )
        self._runs: dict[int, SideRun] = {}
        self._scored_on: tuple[str, Split] | None = None
        self._todo: list[int] = []
        self._ended: dict[int, Slot] = {}  # those that are to be scored once all have ended
        self._found: dict[int, SideResult] = {}

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
        self._runs, self._scored_on = {run.number: run for run in runs}, scored_on
        self._found = {run.number: known for run in runs if (known := self._known(run)) is not None}
        self._records.names = {run.number: run.name for run in runs}
        self._todo, self._ended = [number for number in self._runs if number not in self._found], {}
        for number in self._todo:  # of other settings, and no end of what begins now
            self._paths.side_result(self._kind.value, number).unlink(missing_ok=True)
        while self._todo:
            if not self._train_all(is_stopping):
                return None
            try:
                for number, slot in list(self._ended.items()):
                    self._finish(slot)
                    del self._ended[number]
            except BudgetSpent:
                for number in self._ended:
                    self._records.wait(number)
                raise
        return {number: self._found[number] for number in self._runs}

    def _train_all(self, is_stopping: Callable[[], bool]) -> bool:
        """Trains until all have ended, and leaves the pack empty; False where a stop was asked for."""
        is_whole = False
        try:
            is_whole = self._train(is_stopping)
        except (OutOfRoomError, CustomCodeError, TrackingError, BudgetSpent):
            self._save()
            raise
        else:
            if not is_whole:
                self._save()
        finally:
            self._bench.pack.clear()
        return is_whole

    def _train(self, is_stopping: Callable[[], bool]) -> bool:
        """Trains until all have ended; False where a stop was asked for."""
        pack = self._bench.pack
        while not is_stopping():
            self._refill(is_stopping)
            if not pack.slots:
                if not self._room.waiting and not self._todo:
                    return True
                continue
            self._room.within(pack.settle, is_stopping)
            started = time.monotonic()
            diverged: list[Slot] = []
            if not any(slot.is_due for slot in pack.slots):
                self._spending.begin_tick(self._kind, pack.slots)
                ticks = self._room.within(pack.tick, is_stopping)
                if ticks is None:
                    continue
                self._spending.end_tick(self._kind, pack.slots)
                step = Step(pack.slots, ticks, pack.planner.step, time.monotonic() - started)
                step.note()
                step.log(self._records.log, self._records.events)
                diverged = [slot for slot, tick in zip(pack.slots, ticks, strict=True) if not tick.is_finite]
            for slot in diverged:
                self._conclude(slot, None, Reason.DIVERGED.value)
                self._room.leave(slot)
            self._evaluate(is_stopping)
            for slot in pack.slots:
                slot.duration_s += time.monotonic() - started
            for slot in [slot for slot in pack.slots if slot.is_finished and slot.is_at_evaluation]:
                self._end(slot)
            self._spending.book(Activity.OVERHEAD)
            saved = self._checkpoints.save_due(pack)
            self._spending.book(Activity.CHECKPOINT, [Whose(self._kind, number) for number in saved])
        return False

    def _refill(self, is_stopping: Callable[[], bool]) -> None:
        """Lets in what waits, then what has not begun."""
        while not is_stopping():
            if self._room.waiting:
                asked = self._room.next_waiting()
            elif self._todo and len(self._bench.pack.slots) < self._spending.pack_size.slots:
                asked = Asked(self._todo.pop(0), params={}, is_informed=False, crashes=0, start=None)
            else:
                return
            if asked is None:
                return
            self._records.begin(self._runs[asked.number])
            slot = self._room.admit(asked)
            if slot is None:
                if asked.number in self._found:
                    continue
                return  # the pack must move first
            self._checkpoints.start(slot.number)
            self._records.train(self._runs[slot.number], slot)
            if slot.is_finished and slot.is_at_evaluation:  # it was interrupted before it was scored at its end
                self._end(slot)

    def _empty(self, asked: Asked) -> Slot:
        run = self._runs[asked.number]
        return Slot(run.number, run.params, run.rhythm, run.seed, run.subset)

    def _evaluate(self, is_stopping: Callable[[], bool]) -> None:
        """Scores the slots that are due on the validation split, together."""
        due = [slot for slot in self._bench.pack.slots if slot.is_due]
        if not due:
            return
        self._records.events.write("evaluating", numbers=[slot.number for slot in due])
        self._spending.book(Activity.OVERHEAD)
        scored, took = self._room.evaluate(due, is_stopping)
        self._spending.evaluated(self._kind, scored, took)
        for slot in scored:
            point = curve(slot)[-1]
            self._records.evaluation(slot.number, len(slot.evaluations), point)

    def _end(self, slot: Slot) -> None:
        """Takes a run out of the pack; its best adapter is in its checkpoint, or in memory where there is none."""
        if self._checkpoints.save(self._bench.pack, slot):
            slot.best_adapter = None
        self._ended[slot.number] = slot
        self._room.leave(slot)

    def _refuse(self, slot: Slot, failure: str) -> None:
        """A run does not fit, not even alone."""
        self._conclude(slot, None, failure)

    def _in_flight(self) -> list[Slot]:
        """What the pack has, without what is to leave it."""
        slots = self._bench.pack.slots
        return [slot for slot in slots if slot.number not in self._ended and slot.number not in self._found]

    def _save(self) -> None:
        """Checkpoints what is in flight; then it waits, as does what is to be scored."""
        slots = self._in_flight()
        for slot in slots:
            self._checkpoints.save(self._bench.pack, slot)
        for waiting in self._room.waiting.values():
            if waiting.progress is not None:
                self._checkpoints.save(self._bench.pack, *waiting.progress)
        self._room.waiting.clear()
        self._room.asked.clear()
        with contextlib.suppress(TrackingError):  # the next session says it
            for number in [*(slot.number for slot in slots), *self._ended]:
                self._records.wait(number)

    def _finish(self, slot: Slot) -> None:
        """Scores a run at its end; one whose adapter is lost is trained again."""
        if self._scored_on is None:
            self._conclude(slot, None, None)
            return
        split, weights = self._scored_on[1], slot.best_adapter
        if weights is None and (loaded := self._checkpoints.load(slot.number)) is not None:
            weights = loaded[0].best_adapter
        if weights is None:
            self._paths.side_checkpoint(self._kind.value, slot.number).unlink(missing_ok=True)
            self._todo.append(slot.number)
            return
        adapter: AdapterState = weights
        self._spending.book(Activity.OVERHEAD)
        scored = self._room.outlast(lambda: self._bench.score_adapter(slot.params, adapter, split))
        self._spending.scored(Activity.EVALUATE, len(split.rows), [Whose(self._kind, slot.number)])
        self._conclude(slot, scored, None)

    def _conclude(self, slot: Slot, scored: Scored | None, failure: str | None) -> None:
        """Keeps what came of a run, and ends its run."""
        run = self._runs[slot.number]
        best = slot.evaluations[slot.best_evaluation] if slot.best_evaluation is not None else {}
        values: dict[str, Any] = {
            "curve": curve(slot),
            "metrics": best,
            "scores": scored.scores.as_dict() if scored is not None else None,
            "duration_s": round(slot.duration_s, 3),
            "train_tokens": slot.train_tokens,
            "failure": failure,
        }
        scores = {}
        if scored is not None and self._scored_on is not None:
            prefix, split = self._scored_on
            predictions = self._paths.side_predictions(self._kind.value, slot.number)
            self._bench.keep(predictions, split, scored.predictions)
            scores = {f"{prefix}/{name}": value for name, value in values["scores"].items()}
        known = tracked(run, slot, scores, failure)
        if failure in (None, Reason.DIVERGED.value):  # memory may be more another time
            file = self._paths.side_result(self._kind.value, slot.number)
            file.parent.mkdir(parents=True, exist_ok=True)
            kept_values = {"of": self._settings(run), "tracked": known, **values}
            write_atomically(file, json.dumps(kept_values, indent=1))
            self._paths.side_checkpoint(self._kind.value, slot.number).unlink(missing_ok=True)
        texts = scored.texts if scored is not None else None
        self._found[slot.number] = SideResult(number=slot.number, texts=texts, **values)
        self._records.end(run, known, scores, failure)

    def _known(self, run: SideRun) -> SideResult | None:
        """What came of a run of the same settings before."""
        values = read(self._paths.side_result(self._kind.value, run.number))
        if values is None or values.pop("of") != self._settings(run):
            return None
        values.pop("tracked", None)
        texts = None
        if values["scores"] is not None:
            texts = [one.prediction for one in kept.read(self._paths.side_predictions(self._kind.value, run.number))]
        return SideResult(number=run.number, texts=texts, **values)

    def _settings(self, run: SideRun) -> dict[str, Any]:
        """What a result depends on, beside what is the same for the whole study."""
        return {
            "params": run.params.model_dump(mode="json"),
            "rhythm": run.rhythm.model_dump(mode="json"),
            "seed": run.seed,
            "subset": _sha256(run.subset),
            "scored_on": _sha256(self._scored_on[1].ids if self._scored_on is not None else None),
        }


def _sha256(value: Sequence[object] | None) -> str | None:
    return None if value is None else hashlib.sha256(json.dumps(value).encode()).hexdigest()
