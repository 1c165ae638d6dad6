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

import logging
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.engine import adapter, checkpoint
from sweeper.engine.pack import Slot
from sweeper.engine.stack import AdapterState
from sweeper.errors import CheckpointError, LeaseLostError, SweeperError
from sweeper.events import EventLog
from sweeper.paths import StudyPaths
from sweeper.search.study import Asked, Search
from sweeper.search.views import TrialView, best_of
from sweeper.tracking.tracker import BASELINE, STUDY, RunState, Tracker
from sweeper.trial import Reason, TrialParams
from sweeper.units import GIB
from sweeper.worker.forecast import Forecast, NoForecast
from sweeper.worker.recorder import Recorder, curve, trial_key
from sweeper.worker.workbench import Workbench, set_up

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
        forecast: the constraints of a configuration, before it is trained.
    """

    def __init__(
        self, paths: StudyPaths, tracker: Tracker, is_stopping: Callable[[], bool], forecast: Forecast | None = None
    ) -> None:
        self.paths = paths
        self.config: Config = check.load(paths)
        self.tracker = tracker
        self.is_stopping = is_stopping
        self.forecast = forecast or NoForecast()
        self.events = EventLog(paths.events)
        self.recorder = Recorder(paths, self.config, tracker, self.events)
        self.search = Search(paths.home, self.config, self.forecast.keys)
        self._saved_at: dict[int, float] = {}
        self._constraints: dict[int, dict[str, float]] = {}
        self._suspects: set[int] = set()  # trials that were in flight at an exception
        self._verdicts: dict[int, Callable[[], None]] = {}
        self._held: dict[int, tuple[Slot, AdapterState]] = {}  # out of the pack, but not told yet

    def run(self) -> dict[str, Any]:
        """Works until the total is reached or a stop is asked for; returns the outcome for the launcher."""
        bench: Workbench | None = None
        try:
            with self.search.renewing():
                self.search.requeue_orphans()
                self.search.release_told()
                self.recorder.reconcile(self.search.views())
                self.events.write("loading", model=self.config.model.name)
                bench = set_up(self.config, self.paths.home)
                if not self.is_stopping():
                    self._open_study(bench)
                    self._train(bench)
                if self.is_stopping():
                    self._suspend(bench)
                    return {"status": "stopped"}
                self._finish(bench)
                return {"status": "finished"}
        except Exception as error:  # the one place where a defect is caught: nothing in flight may be lost
            trace = traceback.format_exc()
            is_ours = isinstance(error, SweeperError)
            self._abandon(has_crashed=not is_ours)
            return {
                "status": "error",
                "kind": type(error).__name__,
                "message": str(error),
                "trace": None if is_ours else trace,
            }
        finally:
            self.tracker.flush()
            self.events.close()

    def _open_study(self, bench: Workbench) -> None:
        """Opens the parent run, scores the untuned base and queues the starts, once in a study's life."""
        name = self.config.study.name
        self.search.remember("data_sha256", bench.data_sha256)
        self.search.remember("labels", bench.trie.labels)
        self.tracker.start(STUDY, name, {}, {"mlflow.note.content": self.config.study.description})
        self.tracker.log_file(STUDY, self.paths.config)
        self._keep_best_adapters()
        if "baseline" not in self.search.attributes:
            self.events.write("baseline_started")
            scores = bench.score_base(bench.validation)
            self.tracker.start(BASELINE, "baseline (untuned base)", {}, {})
            self.tracker.log(BASELINE, scores.as_dict(), step=0)
            self.tracker.end(BASELINE, RunState.FINISHED, {})
            self.search.remember("baseline", scores.as_dict())
            self.events.write("baseline", **scores.as_dict())
        if "is_started" not in self.search.attributes:
            for line in self.search.enqueue_starts():
                self.events.write("note", message=f"search.warm_start: {line}")
            self.search.remember("is_started", True)

    def _train(self, bench: Workbench) -> None:
        """The loop: tell and refill, tick, score what is due, checkpoint."""
        pack = bench.pack
        is_waiting = False
        self._advance(bench)
        while not self.is_stopping() and (pack.slots or not self.search.is_complete):
            if not pack.slots:
                if not is_waiting:
                    self.events.write("note", message=WAITING.format(self.config.search.lease_s))
                is_waiting = True
                time.sleep(POLL_S)
                self._advance(bench)
                continue
            is_waiting = False
            started = time.monotonic()
            ticks = pack.tick()
            self.recorder.ticks(pack.slots, ticks)
            diverged = [slot for slot, tick in zip(pack.slots, ticks, strict=True) if not tick.is_finite]
            due = [s for s in pack.slots if s not in diverged and s.rhythm.is_evaluation(s.step)]
            self._evaluate(bench, due)
            spent_s = time.monotonic() - started
            for slot in pack.slots:
                slot.duration_s += spent_s
            for slot in diverged:
                self._conclude(bench, slot, partial(self._prune, slot, Reason.DIVERGED))
            for slot in due:
                self._judge(bench, slot)
            self._checkpoint_due(bench)
            self._advance(bench)

    def _advance(self, bench: Workbench) -> None:
        """Carries out verdicts and fills the slots, in turns."""
        self._refill(bench)
        while self._carry_out():
            self._refill(bench)

    def _refill(self, bench: Workbench) -> None:
        while not self.is_stopping():
            limit = 1 if self._suspects & {slot.number for slot in bench.pack.slots} else self.config.engine.slots
            if len(self.search.in_flight) >= limit:
                return
            asked = self.search.ask()
            if asked is None:
                return
            self._take(bench, asked)
            if not self.config.search.deterministic:
                self._carry_out()

    def _take(self, bench: Workbench, asked: Asked) -> None:
        """Begins a trial, goes on with it, or sees that it need not be trained."""
        params = self.config.trial_params(asked.params)
        constraints = self._constraints[asked.number] = self.forecast(params)
        self.recorder.begin(asked)
        number = asked.number
        if asked.crashes >= MAX_CRASHES:
            self._verdicts[number] = partial(self._fail, asked)
        elif any(value > 0 for value in constraints.values()):
            self._verdicts[number] = partial(self._reject, number)
        elif earlier := self.search.earlier(asked):
            self._verdicts[number] = partial(self._repeat, number, earlier)
        else:
            self._admit(bench, asked, params)

    def _admit(self, bench: Workbench, asked: Asked, params: TrialParams) -> None:
        if asked.crashes:
            self._suspects.add(asked.number)
        resumed = self._resumed(asked.number)
        rhythm = self.config.rhythm(params, len(bench.pack.examples))
        slot, state = resumed or bench.pack.new_slot(asked.number, params, rhythm, self.config.train.seed)
        bench.pack.admit(slot, state)
        self._saved_at[asked.number] = time.monotonic()
        self.recorder.train(asked, slot)
        if slot.is_at_evaluation:  # it was interrupted between its evaluation and what followed from it
            self._judge(bench, slot)

    def _resumed(self, number: int) -> tuple[Slot, AdapterState] | None:
        """A trial as of its checkpoint; None where it has none, or a damaged one: it then begins again."""
        file = self.paths.checkpoint(number)
        if not file.is_file():
            return None
        try:
            return checkpoint.load(file)
        except CheckpointError as error:
            logger.warning("trial %d begins again: %s", number, error)
            self.events.write("checkpoint_damaged", number=number, message=str(error))
            return None

    def _evaluate(self, bench: Workbench, due: list[Slot]) -> None:
        """Scores the slots that are due, together, and keeps the adapter of each one's best evaluation."""
        if not due:
            return
        self.events.write("evaluating", numbers=[slot.number for slot in due])
        bench.evaluate(due, self.config)
        self.recorder.evaluations(due)

    def _judge(self, bench: Workbench, slot: Slot) -> None:
        """Reports a slot's latest evaluation: the trial goes on, is pruned, or is complete."""
        try:
            is_pruned = self.search.report(slot.number, curve(slot), may_prune=not slot.is_finished)
        except LeaseLostError as error:
            self._drop(bench, slot, error)
            return
        if is_pruned:
            self._conclude(bench, slot, partial(self._prune, slot, Reason.PRUNER))
        elif slot.is_finished:
            self._conclude(bench, slot, partial(self._complete, bench, slot))

    def _conclude(self, bench: Workbench, slot: Slot, verdict: Callable[[], None]) -> None:
        """Takes a trial out of the pack; its verdict is carried out when its turn comes."""
        self._held[slot.number] = (slot, bench.pack.remove(slot))
        self._verdicts[slot.number] = verdict

    def _carry_out(self) -> bool:
        """Carries out the next verdict; False where none can be."""
        candidates = self.search.in_flight
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
        self._constraints.pop(number)
        return True

    def _complete(self, bench: Workbench, slot: Slot) -> None:
        assert slot.best_evaluation is not None  # a trial is complete after its last evaluation
        assert slot.best_adapter is not None
        self.search.confirm(slot.number)  # or the folder is another worker's
        folder = self.paths.adapter(slot.number)
        adapter.write(folder, slot.best_adapter, slot.params, bench.base_name, bench.linears)
        value = slot.evaluations[slot.best_evaluation][self.config.objective.metric]
        self.search.complete(slot.number, value, self._record(slot), self._constraints[slot.number])
        self.recorder.end(self._told(slot.number))
        self._keep_best_adapters()

    def _prune(self, slot: Slot, reason: Reason) -> None:
        self.search.prune(slot.number, reason, self._record(slot), self._constraints[slot.number])
        self.recorder.end(self._told(slot.number))

    def _reject(self, number: int) -> None:
        """Tells a trial that the forecast knows to be infeasible, untrained."""
        constraints = self._constraints[number]
        broken = [f"{name} is {value:+.3g} above its limit" for name, value in constraints.items() if value > 0]
        record = {"duration_s": 0.0, "examples_seen": 0, "detail": f"not trained: {', '.join(broken)}"}
        self.search.prune(number, Reason.INFEASIBLE, record, constraints)
        self.recorder.end(self._told(number))

    def _repeat(self, number: int, earlier: TrialView) -> None:
        """Gives a trial the result of the earlier one that it equals, untrained."""
        self.search.repeat(number, earlier, self._constraints[number])
        self.recorder.end(self._told(number))

    def _fail(self, asked: Asked) -> None:
        detail = f"in flight at {asked.crashes} crashes of the worker; their traces are in {self.paths.worker_log.name}"
        self.search.fail(asked.number, detail, self._constraints[asked.number])
        self.recorder.end(self._told(asked.number))

    def _told(self, number: int) -> TrialView:
        return next(trial for trial in self.search.views() if trial.number == number)

    def _record(self, slot: Slot) -> dict[str, Any]:
        """What the storage keeps of a trial beside its value."""
        best = slot.evaluations[slot.best_evaluation] if slot.best_evaluation is not None else {}
        return {
            "metrics": best,
            "curve": curve(slot),
            "duration_s": round(slot.duration_s, 3),
            "examples_seen": slot.examples_seen,
            "company": [company.model_dump() for company in slot.company],
        }

    def _drop(self, bench: Workbench, slot: Slot, error: LeaseLostError) -> None:
        """Lets go of a trial that another worker has taken over; its run, folder and checkpoint are that one's."""
        bench.pack.remove(slot)
        self._forget(slot.number, error)
        self._constraints.pop(slot.number)

    def _forget(self, number: int, error: LeaseLostError) -> None:
        logger.warning("trial %d is let go: %s", number, error)
        self.search.abandon(number)
        self.events.write("lease_lost", number=number, message=str(error))

    def _keep_best_adapters(self) -> None:
        kept = self.recorder.keep_best_adapters(self.search.views(), self.search.attributes.get("adapters", []))
        self.search.remember("adapters", kept)

    def _checkpoint_due(self, bench: Workbench) -> None:
        for slot in bench.pack.slots:
            if time.monotonic() - self._saved_at[slot.number] >= self.config.checkpoint.every_s:
                self._checkpoint(slot, bench.pack.state(slot))

    def _checkpoint(self, slot: Slot, state: AdapterState) -> None:
        try:
            self.search.confirm(slot.number)
        except LeaseLostError:
            return  # the checkpoint is another worker's; the trial is let go at its next evaluation
        self.tracker.flush()  # what the checkpoint has behind it would not be logged again
        room_bytes = self.config.checkpoint.max_gib * GIB - self.paths.checkpoints_bytes()
        try:
            checkpoint.save(self.paths.checkpoint(slot.number), slot, state, room_bytes)
        except CheckpointError as error:  # the trial goes on; only an interruption would cost it more
            logger.warning("trial %d has no new checkpoint: %s", slot.number, error)
            self.events.write("checkpoint_skipped", number=slot.number, message=str(error))
        self._saved_at[slot.number] = time.monotonic()

    def _suspend(self, bench: Workbench) -> None:
        """Checkpoints every trial in flight and puts it back into the queue."""
        for slot in bench.pack.slots:
            self._checkpoint(slot, bench.pack.state(slot))
        for slot, state in self._held.values():
            if slot.is_at_evaluation:
                self._checkpoint(slot, state)
        self._abandon(has_crashed=False)
        self.events.write("suspended", numbers=[slot.number for slot in bench.pack.slots])

    def _abandon(self, has_crashed: bool) -> None:
        """Puts the trials in flight back as of their last checkpoints, and says so in both stores."""
        for number in self.search.in_flight:
            self.search.requeue(number, has_crashed)
            if trial_key(number) in self.tracker.states():
                self.recorder.wait(number)
        self.recorder.reconcile(self.search.views())
        if STUDY in self.tracker.states():
            self.tracker.end(STUDY, RunState.KILLED, {"sweeper.state": "interrupted"})

    def _finish(self, bench: Workbench) -> None:
        """Scores the winner and the base on the test split, once for each winner, and closes the study."""
        best = best_of(self.search.views())
        test = None
        if best is not None and self.search.attributes.get("test", {}).get("trial") != best.number:
            test = self._test(bench, best)
        self.tracker.flush()
        self.tracker.end(STUDY, RunState.FINISHED, {"sweeper.state": "finished"})
        if test is not None:  # last: it is what makes the study finished for the launcher
            self.search.remember("test", test)

    def _test(self, bench: Workbench, best: TrialView) -> dict[str, Any]:
        self.events.write("testing", number=best.number)
        params: TrialParams = self.config.trial_params(best.params)
        rhythm = self.config.rhythm(params, len(bench.pack.examples))
        slot = Slot(best.number, params, rhythm, self.config.train.seed)
        bench.pack.admit(slot, adapter.read(self.paths.adapter(best.number), params))
        [winner] = bench.score(bench.test, [bench.pack.slots.index(slot)])
        bench.pack.remove(slot)
        base = bench.score_base(bench.test)
        looks = int(self.search.attributes.get("test", {}).get("looks", 0)) + 1
        scores = {f"test/{name}": value for name, value in winner.as_dict().items()}
        self.tracker.log(trial_key(best.number), scores, step=0)
        self.tracker.log(BASELINE, {f"test/{name}": value for name, value in base.as_dict().items()}, step=0)
        self.tracker.log(STUDY, {**scores, "best_value": best.value or 0.0}, step=best.number)
        return {
            "trial": best.number,
            "rows": len(bench.test.truth),
            "looks": looks,
            "winner": winner.as_dict(),
            "base": base.as_dict(),
            "majority": bench.majority.as_dict(),
        }
