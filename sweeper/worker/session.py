"""A worker's session: asks, trains in packs, scores, tells, until the study has its total.

One exception handler (`run`) stands between a defect and the study: whatever escapes, the trials in
flight go back to the queue and resume from their last checkpoints. A trial that was in flight when an
exception escaped goes on alone, so that its neighbours are not blamed for it, and is told as failed at
the third, so that a study cannot loop over it for ever. A worker that is killed blames nobody.

A trial that is known to have ended has a *verdict*: what is left is to tell it. Verdicts are carried out
at once, or, with `search.deterministic`, in the order of the trials' numbers, each followed by the ask
that its place makes room for: what the sampler knows at an ask is then the same in every run.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.engine.bucket import AdapterState
from sweeper.engine.pack import Slot
from sweeper.errors import CustomCodeError, LeaseLostError, LostRoomError, OutOfRoomError, SweeperError, TrackingError
from sweeper.events import EventLog
from sweeper.learning.request import Request
from sweeper.memory.guard import Guard
from sweeper.memory.oom import is_out_of_memory
from sweeper.money.booking import Activity, Whose
from sweeper.paths import StudyPaths
from sweeper.preflight.forecast import VRAM, MemoryForecast
from sweeper.retention.measure import CONSTRAINT
from sweeper.search.ended import ENDED, Ended, holds
from sweeper.search.study import Asked, Search
from sweeper.search.views import is_finished
from sweeper.tracking.tracker import STUDY, RunState, Tracker
from sweeper.trial import Reason, RunKind
from sweeper.worker import costs
from sweeper.worker.checkpoints import Checkpoints
from sweeper.worker.confirmation import Confirmation
from sweeper.worker.forecast import Forecast
from sweeper.worker.learning_curve import LearningCurves
from sweeper.worker.memory import (
    MemoryLog,
    budget_of,
    forecast_of,
    guarded,
    keep_budget,
    neighbours,
    rehearse,
    should_rehearse,
)
from sweeper.worker.recorder import Recorder, curve, trial_key
from sweeper.worker.room import Room
from sweeper.worker.side import SideRuns
from sweeper.worker.spending import BudgetSpent, Spending
from sweeper.worker.teller import Teller, finished
from sweeper.worker.workbench import Timing, Workbench, set_up

logger = logging.getLogger(__name__)
MAX_CRASHES = 3
WAITING = "what is left is in flight elsewhere, or was: a worker that is silent for search.lease_s={:g} s loses it"
POLL_S = 1.0  # how often a worker with nothing to do looks for a trial that another one has lost


class Session:
    """One worker's work on one study.

    Args:
        paths: the study's files; its configuration has been written.
        tracker: where runs are recorded.
        is_stopping: asked between ticks; True suspends the session.
        forecast: the constraints of a configuration, before it is trained; None: what memory it will take.
        curve: a learning curve to measure in place of the search.
        launched_s: when the launcher of this process began, in seconds since 1970; the device costs from then on.
    """

    def __init__(
        self,
        paths: StudyPaths,
        tracker: Tracker,
        is_stopping: Callable[[], bool],
        forecast: Forecast | None = None,
        curve: Request | None = None,
        launched_s: float | None = None,
    ) -> None:
        self.launched_s = launched_s
        self.paths = paths
        self.config: Config = check.load(paths)
        self.tracker = tracker
        self.is_stopping = is_stopping
        self.forecast = forecast
        self.curve = curve
        self.events = EventLog(paths.events)
        self.recorder = Recorder(paths, self.config, tracker, self.events)
        keys = [*(forecast.keys if forecast else MemoryForecast.keys)]
        keys += [CONSTRAINT] if self.config.retention.is_on else []
        self.search = Search(paths.home, self.config, keys)
        self.spending = Spending(paths.home, self.config, self.search, self.events)
        self.teller = Teller(paths, self.config, self.search, self.recorder, self.events, self.spending)
        self.checkpoints = Checkpoints(paths, self.config, self.recorder, paths.checkpoint, self.search.confirm)
        self.curves = LearningCurves(paths, self.config, self.search, tracker, self.events, self.spending)
        self._suspects: set[int] = set()  # trials that were in flight at an exception
        self._verdicts: dict[int, Callable[[], None]] = {}
        self._held: dict[int, tuple[Slot, AdapterState]] = {}  # out of the pack, but not told yet
        self._requeued: set[int] = set()  # trials whose place was lost, until they are asked again
        self._refused: Ended | None = None  # why no other trial is asked for, until one has ended
        self._memory: MemoryLog | None = None
        self._room: Room  # from when the memory is known

    def run(self) -> dict[str, Any]:
        """Works until the total is reached or a stop is asked for; returns the outcome for the launcher."""
        bench: Workbench | None = None
        try:
            with (
                self.search.renewing(),
                self.spending.running(self.launched_s),
                costs.logged(self.paths, self.tracker, self.search, self.spending, self.events),
                guarded(self.config, budget_of(self.search)) as guard,
            ):
                self.spending.reconsider()
                if self.spending.over() is not None:  # loading would cost, and nothing could follow
                    return self._cut()
                self.search.requeue_orphans()
                self.search.release_told()
                self.recorder.reconcile(self.search.views())
                self.events.write("loading", model=self.config.model.name)
                for line in (*guard.backend.notes, *neighbours(guard)):
                    self.events.write("note", message=line)
                bench = set_up(self.config, self.paths.home, guard)
                for line in bench.notes:
                    self.events.write("note", message=line)
                if self.is_stopping():
                    return self._suspend()
                self.spending.set_up(bench)
                self._look_at_memory(bench, guard)
                if bench.own.sha256 is not None:
                    self._room.outlast(bench.try_own)
                return self._course(bench)
        except Exception as error:  # the one place where a defect is caught: nothing in flight may be lost
            trace = traceback.format_exc()
            if isinstance(error, OutOfRoomError | CustomCodeError | TrackingError) and self._memory is not None:
                self._save(bench)
            is_ours = isinstance(error, SweeperError)
            # What a trial or its neighbours ask of memory is no defect of ours.
            self._abandon(has_crashed=not (is_ours or is_out_of_memory(error)))
            return {
                "status": "error",
                "kind": type(error).__name__,
                "message": str(error),
                "trace": None if is_ours else trace,
            }
        finally:
            if self._memory is not None:
                self._memory.close(self.search)
            with contextlib.suppress(TrackingError):  # it has been said, or the next session says it
                self.tracker.flush()
            self.events.close()

    def _course(self, bench: Workbench) -> dict[str, Any]:
        """The study from its baseline to the test split, as far as its budget goes."""
        assert self._memory is not None
        try:
            self._room.outlast(lambda: self.teller.open(bench))
            if not self.curves.measure(self.curve, bench, self._memory, self._must_stop):
                return self._cut()
            if self.curve is not None:
                self.tracker.end(STUDY, *self._state())
                return {"status": "finished"}
            while not self._train(bench):
                pass
            if self.is_stopping():
                self._save(bench)
                return self._suspend()
            self._put_aside(bench)
            self.spending.hold_back(self.spending.testing_s())
            if not self._confirm(bench) or self.is_stopping():
                return self._cut()
            self.spending.hold_back(0.0)
            self._room.outlast(lambda: self.teller.finish(bench))
        except BudgetSpent:
            return self._cut()
        self.spending.close()
        return {"status": "finished"}

    def _must_stop(self) -> bool:
        """Whether a stop was asked for, or the limit of what may be spent is reached."""
        return self.is_stopping() or self.spending.over() is not None

    def _put_aside(self, bench: Workbench) -> None:
        """Puts the trials that the budget has stopped back into the queue, for when it is raised."""
        if not self.search.in_flight and not bench.pack.slots:
            return
        self._save(bench)
        for number in self.search.in_flight:
            self.search.requeue(number, has_crashed=False)
            self.recorder.wait(number)
        self._verdicts.clear()
        self._held.clear()
        self._room.clear()
        self._room.waiting.clear()

    def _cut(self) -> dict[str, Any]:
        """Ends a session that was stopped, or that has spent what it may: then the study is as good as it gets."""
        if self.is_stopping():
            return self._suspend()
        if not holds(self.search.attributes.get(ENDED), self.config):
            self.spending.end(self.spending.reached())
        self.spending.close()
        self.tracker.flush()
        if STUDY in self.tracker.states():
            self.tracker.end(STUDY, RunState.FINISHED, finished(self.search.attributes))
        return {"status": "finished"}

    def _look_at_memory(self, bench: Workbench, guard: Guard) -> None:
        """What the study will take, and, where that is much of what there is, its worst step first."""
        memory = forecast_of(bench, self.config, guard, self.paths.home.memory)
        if line := keep_budget(self.search, memory, guard):
            self.events.write("note", message=line)
        self.forecast = self.forecast or memory
        self._memory = MemoryLog(guard, bench.pack.planner, memory)
        self._room = Room(
            self.config, bench, self._memory, self.checkpoints, self.recorder, self._infeasible, book=self.spending.book
        )
        if should_rehearse(self.config, memory):
            self.events.write("note", message=rehearse(bench, self.config, self._memory))

    def _confirm(self, bench: Workbench) -> bool:
        """Confirms the best trials; False where a stop was asked for."""
        assert self._memory is not None
        kept = self.paths, self.config
        memory, spending = self._memory, self.spending
        side = SideRuns(RunKind.CONFIRMATION, *kept, bench, memory, self.tracker, self.events, spending)
        confirmation = Confirmation(*kept, self.search, self.recorder, spending)
        return confirmation.run(bench, side, self._room.outlast, self._must_stop)

    def _state(self) -> tuple[RunState, dict[str, str]]:
        """That of the study's run while nothing of it runs."""
        if is_finished(self.search.seen(), self.config):
            return RunState.FINISHED, finished(self.search.attributes)
        return RunState.KILLED, {"sweeper.state": "interrupted"}

    def _train(self, bench: Workbench) -> bool:
        """Trains until the study has its total, a stop is asked for, or the budget or the stop rule ends it.

        Returns:
            False where the trials of the pack have been lost, and go on from their checkpoints.
        """
        try:
            self._loop(bench)
        except LostRoomError as error:
            message = str(error)
        except BudgetSpent:  # in the middle of an evaluation, which has then not been
            self.spending.end(self.spending.reached())
            return True
        else:
            return True
        self._room.clear()  # out of the `except` block, which holds what is to be freed
        self.events.write("note", message=message)
        for number in self.search.in_flight:
            is_in_pack = number not in self._verdicts and number not in self._room.waiting
            if is_in_pack and self.search.requeue(number, has_crashed=False):
                self._requeued.add(number)
                self.recorder.wait(number)
        return False

    def _loop(self, bench: Workbench) -> None:
        """Tell and refill, tick, score what is due, checkpoint."""
        pack = bench.pack
        is_waiting = False
        self._advance(bench)
        while not self.is_stopping() and (pack.slots or not self.search.is_complete):
            if self.spending.is_limited:
                self.spending.hold_back(self.spending.finishing_s(self.search.seen()))
            if self.spending.over() is not None:
                self.spending.end(self.spending.reached())
                return
            if not pack.slots:
                if self._room.waiting:  # for neighbours on the device
                    self._advance(bench)
                    continue
                if self._refused is not None and not self.search.in_flight:
                    self.spending.end(self._refused)
                    return
                if not is_waiting:
                    self.events.write("note", message=WAITING.format(self.config.search.lease_s))
                is_waiting = True
                self.spending.book(Activity.OVERHEAD)
                time.sleep(POLL_S)
                self.spending.book(Activity.IDLE)
                self._advance(bench)
                continue
            is_waiting = False
            started = time.monotonic()
            diverged: list[Slot] = []
            if not any(slot.is_due for slot in pack.slots):  # one that was interrupted before its evaluation may be
                self.spending.begin_tick(RunKind.TRIAL, pack.slots)
                ticks = self._room.within(pack.tick, self.is_stopping)
                if ticks is None:  # nobody is left to train
                    self._advance(bench)
                    continue
                self.spending.end_tick(RunKind.TRIAL, pack.slots)
                self.recorder.ticks(pack.slots, ticks, pack.planner.step)
                diverged = [slot for slot, tick in zip(pack.slots, ticks, strict=True) if not tick.is_finite]
            for slot in diverged:  # before the evaluation, which may have to evict
                slot.duration_s += time.monotonic() - started
                self._conclude(slot, partial(self.teller.prune, slot, Reason.DIVERGED))
            due = self._evaluate(bench, [slot for slot in pack.slots if slot.is_due])
            spent_s = time.monotonic() - started
            for slot in pack.slots:
                slot.duration_s += spent_s
            for slot in due:
                self._judge(bench, slot)
            self.spending.book(Activity.OVERHEAD)
            saved = self.checkpoints.save_due(bench.pack)
            self.spending.book(Activity.CHECKPOINT, [Whose(RunKind.TRIAL, number) for number in saved])
            self._advance(bench)

    def _advance(self, bench: Workbench) -> None:
        """Carries out verdicts and fills the slots, in turns."""
        self._refill(bench)
        # Where order counts, no verdict comes before the ask that the one before it made room for: a stop ends asking.
        while not (self.config.search.deterministic and self.is_stopping()) and self._carry_out():
            self._refill(bench)

    def _refill(self, bench: Workbench) -> None:
        while not self.is_stopping():
            if self._room.waiting:
                waited = self._room.next_waiting()
                if waited is None:
                    return
                self.recorder.begin(waited)
                if not self._admit(bench, waited):
                    return  # the pack must move first
                continue
            limit = 1 if self._suspects & {slot.number for slot in bench.pack.slots} else self.config.engine.slots
            if len(self.search.in_flight) >= limit or not self._may_ask(bench):
                return
            asked = self.search.ask()
            if asked is None or not self._can_pay(bench, asked):
                return
            self._take(bench, asked)
            if not self.config.search.deterministic:
                self._carry_out()

    def _may_ask(self, bench: Workbench) -> bool:
        """Whether another trial may be asked for, as far as is known before it is."""
        if self._refused is not None:
            return False
        if not self.spending.is_limited and self.config.budget.trials is None:
            return True
        if self.spending.is_limited and not self.spending.can_foretell and self.search.in_flight:
            return False  # one trial by itself first shows what another will take
        if not any(trial.state == "WAITING" for trial in self.search.views()):
            self._refused = self._refusal(bench, None)
        return self._refused is None

    def _refusal(self, bench: Workbench, asked: Asked | None) -> Ended | None:
        others = [number for number in self.search.in_flight if asked is None or number != asked.number]
        return self.spending.refusal(self.search.seen(), asked, others, bench.pack.slots)

    def _can_pay(self, bench: Workbench, asked: Asked) -> bool:
        """Whether a trial that was asked for can be paid to its end; else it waits for a raised budget."""
        self._refused = self._refusal(bench, asked)
        if self._refused is not None:
            self.search.requeue(asked.number, has_crashed=False)
        return self._refused is None

    def _take(self, bench: Workbench, asked: Asked) -> None:
        """Begins a trial, goes on with it, or sees that it need not be trained."""
        params = self.config.trial_params(asked.params)
        assert self.forecast is not None
        constraints = self.teller.constraints[asked.number] = self.forecast(params)
        self.recorder.begin(asked)
        number = asked.number
        self._requeued.discard(number)
        if self.checkpoints.has(number):  # it was let in, and what was foretold then holds
            constraints = self.teller.constraints[number] = {name: min(v, 0.0) for name, v in constraints.items()}
        if asked.crashes >= MAX_CRASHES:
            self._verdicts[number] = partial(self.teller.fail, asked)
        elif any(value > 0 for value in constraints.values()):
            self._verdicts[number] = partial(self.teller.reject, number)
        elif earlier := self.search.earlier(asked):
            self._verdicts[number] = partial(self.teller.repeat, number, earlier)
        else:
            self._admit(bench, asked)

    def _admit(self, bench: Workbench, asked: Asked) -> bool:
        """Lets a trial train, if there is room for it beside the others; False where it waits."""
        slot = self._room.admit(asked)
        if slot is None:
            return asked.number in self._verdicts
        if asked.crashes:
            self._suspects.add(asked.number)
        self.checkpoints.start(asked.number)
        self.recorder.train(asked, slot)
        if slot.is_at_evaluation:  # it was interrupted between its evaluation and what followed from it
            self._judge(bench, slot)
        return True

    def _evaluate(self, bench: Workbench, due: list[Slot]) -> list[Slot]:
        """Scores the slots that are due, together, and keeps the adapter of each one's best evaluation.

        Returns:
            Those that were scored: one that had to leave for memory is not.
        """
        if not due:
            return []
        self.events.write("evaluating", numbers=[slot.number for slot in due])

        took: Timing | None = None

        def evaluate() -> list[Slot]:
            nonlocal took
            here = [slot for slot in due if slot in bench.pack.slots]
            if here:
                took = bench.evaluate(here, self.config)
            return here

        self.spending.book(Activity.OVERHEAD)
        scored = self._room.within(evaluate, self.is_stopping) or []
        self.spending.evaluated(RunKind.TRIAL, scored, took)
        self.recorder.evaluations(scored)
        return scored

    def _infeasible(self, slot: Slot, failure: str) -> None:
        """A trial does not fit, not even alone."""
        self._verdicts[slot.number] = partial(self._refuse, slot, failure)

    def _refuse(self, slot: Slot, failure: str) -> None:
        """Tells a trial that does not fit, though it was foretold to: what was measured corrects the forecast."""
        assert self._memory is not None
        self._memory.prunes += 1
        constraints = self.teller.constraints[slot.number]
        if VRAM in constraints:
            constraints[VRAM] = max(constraints[VRAM], self._memory.excess())
        self.teller.prune(slot, Reason.INFEASIBLE, self._memory.in_words(failure), self._memory.readings())

    def _judge(self, bench: Workbench, slot: Slot) -> None:
        """Reports a slot's latest evaluation: the trial goes on, is pruned, or is complete."""
        try:
            is_pruned = self.search.report(slot.number, curve(slot), may_prune=not slot.is_finished)
        except LeaseLostError as error:
            self._drop(slot, error)
            return
        if is_pruned:
            self._conclude(slot, partial(self.teller.prune, slot, Reason.PRUNER))
        elif slot.is_finished:
            self._conclude(slot, partial(self._complete, bench, slot))
        elif (why := self._why_wrecked(bench, slot)) is not None:
            self._conclude(slot, partial(self.teller.prune, slot, Reason.WRECKED, why))

    def _complete(self, bench: Workbench, slot: Slot) -> None:
        """Tells a trial that ran to its end; one of the best so far is held to all that the base could do before."""
        self.teller.complete(bench, slot, self._in_full(bench, slot) if self.teller.is_finalist(slot) else {})

    def _in_full(self, bench: Workbench, slot: Slot) -> dict[str, float]:
        """Scores the best adapter of a trial on the whole retention suite, beside those that train."""

        def score() -> dict[str, float]:
            assert bench.retention is not None
            assert slot.best_adapter is not None
            guest = Slot(-1, slot.params, slot.rhythm, slot.seed)
            bench.pack.admit(guest, slot.best_adapter)
            try:
                [values] = bench.retention.score_full(bench.pack, [bench.pack.slots.index(guest)])
            finally:
                self._room.leave(guest)
            return values

        self.spending.book(Activity.OVERHEAD)
        found = self._room.within(score, lambda: False) or self._room.outlast(score)
        self.spending.book(Activity.EVALUATE, [Whose(RunKind.TRIAL, slot.number)])
        return found

    def _why_wrecked(self, bench: Workbench, slot: Slot) -> str | None:
        """What a trial has lost, where that is certainly too much of the base's abilities and is to end it."""
        if bench.retention is None or not self.config.retention.stop_wrecked:
            return None
        yardstick, values = bench.retention.sampled, slot.evaluations[-1]
        return yardstick.loss_in_words(values) if yardstick.is_wrecked(values) else None

    def _conclude(self, slot: Slot, verdict: Callable[[], None]) -> None:
        """Takes a trial out of the pack; its verdict is carried out when its turn comes."""
        self._refused = None  # it may have taken less than was held back for it
        self._verdicts[slot.number] = verdict
        if (state := self._room.leave(slot)) is not None:
            self._held[slot.number] = (slot, state)

    def _carry_out(self) -> bool:
        """Carries out the next verdict; False where none can be."""
        candidates = sorted({*self.search.in_flight, *self._requeued})
        if self.config.search.deterministic:
            candidates = candidates[:1]
        number = next((number for number in candidates if number in self._verdicts), None)
        if number is None:
            return False
        try:
            self._verdicts[number]()
        except LeaseLostError as error:
            self._forget(number, error)
        self._verdicts.pop(number)
        self._held.pop(number, None)
        self.teller.constraints.pop(number)
        return True

    def _drop(self, slot: Slot, error: LeaseLostError) -> None:
        """Lets go of a trial that another worker has taken over; its run, folder and checkpoint are that one's."""
        self._forget(slot.number, error)
        self._room.leave(slot)
        self.teller.constraints.pop(slot.number)

    def _forget(self, number: int, error: LeaseLostError) -> None:
        logger.warning("trial %d is let go: %s", number, error)
        self.search.abandon(number)
        self.events.write("lease_lost", number=number, message=str(error))

    def _save(self, bench: Workbench | None) -> None:
        """Checkpoints every trial in flight, as far as memory and disk allow."""
        assert bench is not None
        for slot in bench.pack.slots:
            self.checkpoints.save(bench.pack, slot)
        for slot, state in self._held.values():
            if slot.is_at_evaluation:
                self.checkpoints.save(bench.pack, slot, state)
        for waiting in self._room.waiting.values():
            if waiting.progress is not None:
                self.checkpoints.save(bench.pack, *waiting.progress)

    def _suspend(self) -> dict[str, Any]:
        """Puts the trials in flight back into the queue."""
        numbers = self.search.in_flight
        self._abandon(has_crashed=False)
        self.events.write("suspended", numbers=numbers)
        return {"status": "stopped"}

    def _abandon(self, has_crashed: bool) -> None:
        """Puts the trials in flight back as of their last checkpoints, and says so in both stores."""
        numbers = self.search.in_flight
        for number in numbers:
            self.search.requeue(number, has_crashed)
        try:
            states = self.tracker.states()
            for number in numbers:
                if trial_key(number) in states:
                    self.recorder.wait(number)
            self.recorder.reconcile(self.search.views())
            if STUDY in states:
                self.tracker.end(STUDY, *self._state())
        except TrackingError as error:  # the next session catches up
            logger.warning("the runs do not say yet that the study is interrupted: %s", error)
