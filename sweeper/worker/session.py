"""A worker's session: asks, trains in packs, scores, tells, until the study has its total.

One exception handler (`run`) stands between a defect and the study: whatever escapes, the trials in
flight go back to the queue and resume from their last checkpoints. A trial that was in flight when an
exception escaped goes on alone, so that its neighbours are not blamed for it, and is told as failed at
the third, so that a study cannot loop over it for ever. A worker that is killed blames nobody.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

from sweeper import outcome
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.disk import full, is_full
from sweeper.errors import CustomCodeError, OutOfRoomError, StoreError, SweeperError, TrackingError
from sweeper.events import EventLog
from sweeper.learning.request import Request
from sweeper.memory.guard import Guard
from sweeper.memory.oom import is_out_of_memory
from sweeper.money.booking import Activity
from sweeper.paths import StudyPaths
from sweeper.preflight.forecast import MemoryForecast
from sweeper.retention.measure import CONSTRAINT
from sweeper.search.ended import ENDED, holds
from sweeper.search.patience import Patience
from sweeper.search.study import Search
from sweeper.search.views import is_finished
from sweeper.tracking.spool import unsent
from sweeper.tracking.tracker import STUDY, RunState, Tracker
from sweeper.trial import RunKind
from sweeper.worker import costs
from sweeper.worker.checkpoints import Checkpoints
from sweeper.worker.confirmation import Confirmation
from sweeper.worker.elsewhere import Elsewhere
from sweeper.worker.forecast import Forecast
from sweeper.worker.lead import POLL_S, Lead
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
from sweeper.worker.recorder import Recorder, trial_key
from sweeper.worker.reports import Reports
from sweeper.worker.side import SideRuns
from sweeper.worker.spending import BudgetSpent, Spending
from sweeper.worker.teller import Teller, finished
from sweeper.worker.trials import Trials
from sweeper.worker.workbench import Workbench, set_up

logger = logging.getLogger(__name__)


class Session:
    """One worker's work on one study.

    Args:
        paths: the study's files; its configuration has been written.
        tracker: where runs are recorded.
        is_stopping: asked between ticks; True suspends the session.
        forecast: the constraints of a configuration, before it is trained; None: what memory it will take.
        curve: a learning curve to measure in place of the search.
        launched_s: when the launcher of this process began, in seconds since 1970; the device costs from then on.
        began_s: when it was told to work, likewise; None: when its process began.
        index: which of the study's workers it is.
    """

    def __init__(
        self,
        paths: StudyPaths,
        tracker: Tracker,
        is_stopping: Callable[[], bool],
        forecast: Forecast | None = None,
        curve: Request | None = None,
        launched_s: float | None = None,
        began_s: float | None = None,
        index: int = 0,
    ) -> None:
        self.launched_s, self.began_s = launched_s, began_s
        self.paths = paths
        self.config: Config = check.load(paths)
        self.tracker = tracker
        self.is_stopping = is_stopping
        self.forecast = forecast
        self.curve = curve
        self.events = EventLog(paths.events, index)
        self.recorder = Recorder(paths, self.config, tracker, self.events)
        keys = [*(forecast.keys if forecast else MemoryForecast.keys)]
        keys += [CONSTRAINT] if self.config.retention.is_on else []
        place, announce = paths.home.optuna_place, lambda line: self.events.write("note", message=line)
        patience = Patience(place, self.config.store.patience_s, announce, is_stopping)
        self.search = Search(paths.home, self.config, keys, patience=patience)
        self.lead = Lead(self.search)
        self.spending = Spending(paths.home, self.config, self.search, self.events)
        self.reports = Reports(paths, self.config, self.search, tracker, self.spending, self.events)
        told = paths, self.config, self.search, self.recorder, self.events, self.spending, self.reports
        self.teller = Teller(*told)
        self.elsewhere = Elsewhere(paths, self.config, self.events)
        self.checkpoints = Checkpoints(
            paths, self.config, self.recorder, paths.checkpoint, self.search.confirm, self.elsewhere.bring
        )
        self.curves = LearningCurves(paths, self.config, self.search, tracker, self.events, self.spending)
        self._has_led = False  # until it ended by an error
        self._memory: MemoryLog | None = None
        self._trials: Trials | None = None  # from when the memory is known

    def run(self) -> dict[str, Any]:
        """Works until the total is reached or a stop is asked for; returns the outcome for the launcher."""
        try:
            with (
                self.search.renewing(),
                self.spending.running(self.launched_s, self.began_s),
                self.lead.held(),
                self.elsewhere.shared(),
                self.reports.logged(self.is_stopping, self.lead),
                costs.logged(self.paths, self.tracker, self.search, self.spending, self.events, self.lead),
                guarded(self.config, budget_of(self.search)) as guard,
            ):
                try:
                    return self._work(guard)
                except BudgetSpent:
                    return self._cut()
                finally:  # before the report, which has it
                    self._has_led = bool(self.lead)
                    if self._memory is not None:
                        self._memory.close(self.search)
        except Exception as error:  # the one place where a defect is caught: nothing in flight may be lost
            trace = traceback.format_exc()
            if isinstance(error, OutOfRoomError | CustomCodeError | TrackingError) and self._trials is not None:
                self._trials.save()
            if is_full(error):
                error = full(error, self.paths.root)
            is_ours = isinstance(error, SweeperError)
            # What a trial or its neighbours ask of memory is no defect of ours.
            self._put_back(has_crashed=not (is_ours or is_out_of_memory(error)))
            return {
                "status": outcome.ERROR,
                "kind": type(error).__name__,
                "message": str(error),
                "trace": None if is_ours else trace,
            }
        finally:
            self._conclude()
            self.events.close()

    def _conclude(self) -> None:
        """Waits for the store of the runs, and says what it has not taken."""
        try:
            if count := self.recorder.conclude(self.search.views):
                self.events.write("note", message=unsent(count, self.paths))
        except (StoreError, OSError) as error:  # it has been said, or the next session says it
            logger.warning("the runs are not as they should be: %s", error)

    def _work(self, guard: Guard) -> dict[str, Any]:
        """Loads what the study needs, and follows its course."""
        self.spending.reconsider()
        self.search.requeue_orphans()
        if self.lead.take():
            self.search.release_told()
            self.recorder.reconcile(self.search.views())
        self.spending.hold_back(self.spending.pace.setup_s or 0.0)
        if self.spending.over() is not None:  # loading would cost, and nothing could follow
            return self._cut()
        self.spending.hold_back(0.0)
        self.events.write("loading", model=self.config.model.name)
        for line in (*guard.backend.notes, *neighbours(guard)):
            self.events.write("note", message=line)
        bench = set_up(self.config, self.paths.home, guard)
        for line in bench.notes:
            self.events.write("note", message=line)
        if self.is_stopping():
            return self._suspend()
        self.spending.set_up(bench)
        if not self._is_opened():
            return self._cut()
        trials = self._trials = self._with_memory(bench, guard)
        if bench.own.sha256 is not None:
            trials.room.outlast(bench.try_own)
        return self._course(bench, trials)

    def _course(self, bench: Workbench, trials: Trials) -> dict[str, Any]:
        """The study from its baseline to its end."""
        trials.room.outlast(lambda: self.spending.warm_up(bench))
        trials.room.outlast(lambda: self.teller.open(bench) if self.lead else self.teller.join(bench))
        is_watching = self.config.tracking.system_metrics and self.lead
        with self.tracker.watching_system() if is_watching else contextlib.nullcontext():
            return self._trained(bench, trials)

    def _is_opened(self) -> bool:
        """Waits until the study is open, or for the part of the one that opens it; False where it must stop before."""
        while "is_started" not in self.search.attributes and not self.lead.take():
            if self._must_stop():
                return False
            self.spending.book(Activity.OVERHEAD)
            time.sleep(POLL_S)
            self.spending.book(Activity.IDLE)
        return True

    def _trained(self, bench: Workbench, trials: Trials) -> dict[str, Any]:
        """The study from its first trial to the test split, as far as its budget goes."""
        assert self._memory is not None
        if self.lead and not self.curves.measure(self.curve, bench, self._memory, self._must_stop):
            return self._cut()
        if self.curve is not None:
            self._end_run(*self._state())
            return {"status": outcome.FINISHED}
        trials.train()
        if self.is_stopping():
            trials.save()
            return self._suspend()
        trials.put_aside()
        self.spending.conclude_pack(self.tracker, bool(self.lead))
        if not self.lead:
            if not self.lead.falls_to_me(self.is_stopping):
                return self._leave()
            if trials.ended is not None and not self.search.is_complete:
                self.spending.end(trials.ended)  # which is said by the one that leads
        return self._ended(bench, trials)

    def _ended(self, bench: Workbench, trials: Trials) -> dict[str, Any]:
        """The study from its last trial to the test split, by the worker that leads."""
        self.elsewhere.gather(self.search.seen, self.is_stopping)
        self.spending.hold_back(self.spending.testing_s())
        if not self._confirm(bench, trials) or self.is_stopping():
            return self._cut()
        self.spending.hold_back(0.0)
        self.recorder.reconcile(self.search.views())  # what other workers had told before they died
        trials.room.outlast(lambda: self.teller.finish(bench))
        self.spending.close()
        return {"status": outcome.FINISHED}

    def _must_stop(self) -> bool:
        """Whether a stop was asked for, or the limit of what may be spent is reached."""
        return self.is_stopping() or self.spending.over() is not None

    def _cut(self) -> dict[str, Any]:
        """Ends a session that was stopped, or that has spent what it may: then the study is as good as it gets."""
        if self.is_stopping():
            return self._suspend()
        if not self.lead:
            return self._leave()
        self.recorder.reconcile(self.search.views())
        self.tracker.settle()
        if self.curve is None:  # or it is not the study that ends
            ended, limit = self.search.attributes.get(ENDED), self.spending.over()
            if ended is None or not holds(ended, self.config) or limit not in (None, ended["key"]):
                self.spending.end(self.spending.reached())  # the limit that must be raised for what is left
            self._end_run(RunState.FINISHED, finished(self.search.attributes))
            self.spending.close()  # last: it is what makes the study finished for the launcher
        else:
            self._end_run(*self._state())
        return {"status": outcome.FINISHED}

    def _leave(self) -> dict[str, Any]:
        """Ends the part of a worker that does not lead; the one that does ends the study."""
        if self.is_stopping():
            return self._suspend()
        self.tracker.flush()
        self.events.write("left")
        return {"status": outcome.LEFT}

    def _end_run(self, state: RunState, tags: dict[str, str]) -> None:
        """Ends the study's run, where it has one."""
        if self.tracker.has(STUDY):
            self.tracker.end(STUDY, state, tags)
            self.tracker.settle()

    def _with_memory(self, bench: Workbench, guard: Guard) -> Trials:
        """What the study will take, and, where that is much of what there is, its worst step first."""
        memory = forecast_of(bench, self.config, guard, self.paths.home.memory)
        if line := keep_budget(self.search, memory, guard):
            self.events.write("note", message=line)
        self._memory = MemoryLog(guard, bench.pack.planner, memory)
        if should_rehearse(self.config, memory):
            self.events.write("note", message=rehearse(bench, self.config, self._memory))
        self.spending.settle_pack(bench, self._memory, self._must_stop)
        forecast = self.forecast or memory
        told = self.search, self.teller, self.recorder, self.checkpoints, self.spending
        return Trials(self.config, bench, self._memory, forecast, *told, self.lead, self.is_stopping)

    def _confirm(self, bench: Workbench, trials: Trials) -> bool:
        """Confirms the best trials; False where a stop was asked for."""
        assert self._memory is not None
        kept = self.paths, self.config
        memory, spending = self._memory, self.spending
        side = SideRuns(RunKind.CONFIRMATION, *kept, bench, memory, self.tracker, self.events, spending)
        confirmation = Confirmation(*kept, self.search, self.recorder, spending)
        return confirmation.run(bench, side, trials.room.outlast, self._must_stop)

    def _state(self) -> tuple[RunState, dict[str, str]]:
        """That of the study's run while nothing of it runs."""
        if is_finished(self.search.seen(), self.config):
            return RunState.FINISHED, finished(self.search.attributes)
        return RunState.KILLED, {"sweeper.state": "interrupted"}

    def _suspend(self) -> dict[str, Any]:
        """Puts the trials in flight back into the queue."""
        numbers = self.search.in_flight
        self._abandon(has_crashed=False)
        self.events.write("suspended", numbers=numbers)
        return {"status": outcome.STOPPED}

    def _put_back(self, has_crashed: bool) -> None:
        """As `_abandon`; where the disk is full, the next session finds the trials by their leases."""
        try:
            self._abandon(has_crashed)
        except Exception as error:  # of the storage, the tracker or the events, which all have the same disk
            if not is_full(error):
                raise
            logger.warning("the storage does not say yet that trials wait: %s", error)

    def _abandon(self, has_crashed: bool) -> None:
        """Puts the trials in flight back as of their last checkpoints, and says so in both stores."""
        numbers = [number for number in self.search.in_flight if self.search.requeue(number, has_crashed)]
        try:
            for number in numbers:
                if self.tracker.has(trial_key(number)):
                    self.recorder.wait(number)
            if not self.lead and not self._has_led:
                return
            views = self.search.views()
            self.recorder.reconcile(views)
            if self.tracker.has(STUDY) and not any(trial.state == "RUNNING" for trial in views):
                self.tracker.end(STUDY, *self._state())
        except TrackingError as error:  # the next session catches up
            logger.warning("the runs do not say yet that the study is interrupted: %s", error)
