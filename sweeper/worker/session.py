"""A worker's session: asks, trains in packs, scores, tells, until the study has its total.

One exception handler (`run`) stands between a defect and the study: whatever escapes, the trials in
flight go back to the queue and resume from their last checkpoints. A trial that was in flight when an
exception escaped goes on alone, so that its neighbours are not blamed for it, and is told as failed at
the third, so that a study cannot loop over it for ever. A worker that is killed blames nobody.
"""

from __future__ import annotations

import logging
import shutil
import time
import traceback
from collections.abc import Callable
from typing import Any

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.engine import adapter, checkpoint
from sweeper.engine.pack import Slot, Tick
from sweeper.engine.stack import AdapterState
from sweeper.errors import CheckpointError, SweeperError
from sweeper.events import EventLog
from sweeper.paths import StudyPaths, write_atomically
from sweeper.search.study import Asked, Search, TrialView, best_of
from sweeper.tracking.tracker import BASELINE, STUDY, RunKey, RunState, Tracker
from sweeper.trial import Reason, RunKind, TrialParams, run_name
from sweeper.worker.workbench import Workbench, set_up

logger = logging.getLogger(__name__)
MAX_CRASHES = 3
RUN_STATES = {  # a trial's state in Optuna, and its run's in MLflow
    "RUNNING": RunState.RUNNING,
    "WAITING": RunState.SCHEDULED,
    "COMPLETE": RunState.FINISHED,
    "PRUNED": RunState.KILLED,
    "FAIL": RunState.FAILED,
}
ADAPTER = "adapter"  # the artifact folder of a run that has one


def trial_key(number: int) -> RunKey:
    return RunKey(RunKind.TRIAL, number)


class Session:
    """One worker's work on one study.

    Args:
        paths: the study's files; its configuration has been written.
        tracker: where runs are recorded.
        is_stopping: asked between ticks; True suspends the session.
    """

    def __init__(self, paths: StudyPaths, tracker: Tracker, is_stopping: Callable[[], bool]) -> None:
        self.paths = paths
        self.config: Config = check.load(paths)
        self.tracker = tracker
        self.is_stopping = is_stopping
        self.events = EventLog(paths.events)
        self.search = Search(paths.home, self.config)
        self._saved_at: dict[int, float] = {}
        self._suspects: set[int] = set()  # trials that were in flight at an exception

    def run(self) -> dict[str, Any]:
        """Works until the total is reached or a stop is asked for; returns the outcome for the launcher."""
        bench: Workbench | None = None
        try:
            self.search.requeue_orphans()
            self._reconcile()
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
            self._abandon(bench.pack.slots if bench else [], has_crashed=not is_ours)
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
        """Opens the parent run and scores the untuned base, once in a study's life."""
        name = self.config.study.name
        self.search.remember("data_sha256", bench.data_sha256)
        self.search.remember("labels", bench.trie.labels)
        self.tracker.start(STUDY, name, {}, {"mlflow.note.content": self.config.study.description})
        self.tracker.log_file(STUDY, self.paths.config)
        self._keep_best_adapters()
        if "baseline" in self.search.attributes:
            return
        self.events.write("baseline_started")
        scores = bench.score_base(bench.validation)
        self.tracker.start(BASELINE, "baseline (untuned base)", {}, {})
        self.tracker.log(BASELINE, scores.as_dict(), step=0)
        self.tracker.end(BASELINE, RunState.FINISHED, {})
        self.search.remember("baseline", scores.as_dict())
        self.events.write("baseline", **scores.as_dict())

    def _reconcile(self) -> None:
        """Catches the runs and files up with what a killed worker had told Optuna, and with its orphans."""
        self.paths.drop_half_checkpoints()
        states = self.tracker.states()
        for trial in self.search.views():
            key = trial_key(trial.number)
            if key in states and states[key] is not RUN_STATES[trial.state]:
                tags = {"sweeper.state": trial.state, "sweeper.reason": trial.reason or ""}
                self.tracker.end(key, RUN_STATES[trial.state], tags)
            if trial.is_told:
                self.paths.checkpoint(trial.number).unlink(missing_ok=True)

    def _train(self, bench: Workbench) -> None:
        """The loop: refill, tick, score what is due, checkpoint."""
        pack = bench.pack
        self._refill(bench)
        while pack.slots and not self.is_stopping():
            started = time.monotonic()
            ticks = pack.tick()
            self._log_ticks(pack.slots, ticks)
            diverged = [slot for slot, tick in zip(pack.slots, ticks, strict=True) if not tick.is_finite]
            due = [s for s in pack.slots if s not in diverged and s.rhythm.is_evaluation(s.step)]
            self._evaluate(bench, due)
            spent_s = time.monotonic() - started
            for slot in pack.slots:
                slot.duration_s += spent_s
            for slot in diverged:
                self._prune(bench, slot, Reason.DIVERGED)
            for slot in due:
                self._judge(bench, slot)
            self._checkpoint_due(bench)
            self._refill(bench)

    def _refill(self, bench: Workbench) -> None:
        while not self.is_stopping():
            limit = 1 if self._suspects & {slot.number for slot in bench.pack.slots} else self.config.engine.slots
            if len(bench.pack.slots) >= limit:
                return
            asked = self.search.ask()
            if asked is None:
                return
            if asked.crashes >= MAX_CRASHES:
                self._fail(asked)
                continue
            if asked.crashes:
                self._suspects.add(asked.number)
            try:
                self._admit(bench, asked)
            except Exception as error:  # not in the pack yet, so `run` would not find it there
                self.search.requeue(asked.number, has_crashed=not isinstance(error, SweeperError))
                raise

    def _admit(self, bench: Workbench, asked: Asked) -> None:
        params = self.config.trial_params(asked.params)
        resumed = self._resumed(asked.number)
        rhythm = self.config.rhythm(params, len(bench.pack.examples))
        slot, state = resumed or bench.pack.new_slot(asked.number, params, rhythm, self.config.train.seed)
        name = run_name(asked.number, asked.params)
        tags = {"sweeper.state": "RUNNING", "sweeper.is_informed": str(asked.is_informed)}
        self.tracker.start(trial_key(asked.number), name, asked.params, tags)
        config_file = self.paths.trial_config(asked.number)
        config_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(config_file, check.dump(self.config.for_trial(asked.params)))
        self.tracker.log_file(trial_key(asked.number), config_file)
        bench.pack.admit(slot, state)
        self._saved_at[asked.number] = time.monotonic()
        self.events.write(
            "trial_started",
            number=asked.number,
            name=name,
            step=slot.step,
            steps=slot.rhythm.total_steps,
            is_informed=asked.is_informed,
        )

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

    def _log_ticks(self, slots: list[Slot], ticks: list[Tick]) -> None:
        for slot, tick in zip(slots, ticks, strict=True):
            metrics = {
                "train/loss": tick.loss,
                "train/grad_norm": tick.grad_norm,
                "train/learning_rate": tick.learning_rate,
                "train/tokens": slot.train_tokens,
                "train/supervised_tokens": slot.supervised_tokens,
            }
            self.tracker.log(trial_key(slot.number), metrics, slot.examples_seen)
        self.events.write(
            "tick",
            slots=[
                {"number": slot.number, "step": slot.step, "loss": tick.loss}
                for slot, tick in zip(slots, ticks, strict=True)
            ],
        )

    def _evaluate(self, bench: Workbench, due: list[Slot]) -> None:
        """Scores the slots that are due, together, and keeps the adapter of each one's best evaluation."""
        if not due:
            return
        self.events.write("evaluating", numbers=[slot.number for slot in due])
        bench.evaluate(due, self.config)
        for slot in due:
            values = slot.evaluations[-1]
            self.tracker.log(trial_key(slot.number), values, slot.examples_seen)
            self.events.write(
                "evaluation", number=slot.number, index=len(slot.evaluations) - 1, examples=slot.examples_seen, **values
            )
        self.tracker.flush()

    def _judge(self, bench: Workbench, slot: Slot) -> None:
        """Reports a slot's latest evaluation: the trial goes on, is pruned, or is complete."""
        index = len(slot.evaluations) - 1
        is_pruned = self.search.report(slot.number, index, slot.evaluations[index], may_prune=not slot.is_finished)
        if is_pruned:
            self._prune(bench, slot, Reason.PRUNER)
        elif slot.is_finished:
            self._complete(bench, slot)

    def _complete(self, bench: Workbench, slot: Slot) -> None:
        assert slot.best_evaluation is not None  # a trial is complete after its last evaluation
        assert slot.best_adapter is not None
        folder = self.paths.adapter(slot.number)
        adapter.write(folder, slot.best_adapter, slot.params, bench.base_name, bench.linears)
        value = slot.evaluations[slot.best_evaluation][self.config.objective.metric]
        self.search.complete(slot.number, value, self._record(slot))
        bench.pack.remove(slot)
        self.tracker.log(trial_key(slot.number), {"best_value": value}, slot.examples_seen)
        self._close(slot, RunState.FINISHED, {"sweeper.state": "COMPLETE"})
        self._keep_best_adapters()

    def _prune(self, bench: Workbench, slot: Slot, reason: Reason) -> None:
        self.search.prune(slot.number, reason, self._record(slot))
        bench.pack.remove(slot)
        self._close(slot, RunState.KILLED, {"sweeper.state": "PRUNED", "sweeper.reason": reason.value})

    def _fail(self, asked: Asked) -> None:
        detail = f"in flight at {asked.crashes} crashes of the worker; their traces are in {self.paths.worker_log.name}"
        self.search.fail(asked.number, detail)
        self.paths.checkpoint(asked.number).unlink(missing_ok=True)
        key = trial_key(asked.number)
        self.tracker.start(key, run_name(asked.number, asked.params), asked.params, {})
        tags = {"sweeper.state": "FAIL", "sweeper.reason": Reason.DEFECT.value}
        self.tracker.end(key, RunState.FAILED, tags)
        self.events.write("trial_ended", number=asked.number, state="FAIL", reason=Reason.DEFECT.value, value=None)

    def _record(self, slot: Slot) -> dict[str, Any]:
        """What the storage keeps of a trial beside its value."""
        best = slot.evaluations[slot.best_evaluation] if slot.best_evaluation is not None else {}
        return {
            "metrics": best,
            "duration_s": round(slot.duration_s, 3),
            "examples_seen": slot.examples_seen,
        }

    def _close(self, slot: Slot, state: RunState, tags: dict[str, str]) -> None:
        """Ends a trial's run and drops its checkpoint, after it has been told."""
        key = trial_key(slot.number)
        self.tracker.log(key, {"duration_s": slot.duration_s}, slot.examples_seen)
        self.tracker.end(key, state, tags)
        self.paths.checkpoint(slot.number).unlink(missing_ok=True)
        metric = self.config.objective.metric
        self.events.write(
            "trial_ended",
            number=slot.number,
            state=tags["sweeper.state"],
            reason=tags.get("sweeper.reason"),
            value=slot.evaluations[slot.best_evaluation][metric] if slot.best_evaluation is not None else None,
        )

    def _keep_best_adapters(self) -> None:
        """Keeps the adapters of the best complete trials, on disk and in MLflow; deletes the others'."""
        views = self.search.views()
        there = [trial for trial in views if trial.value is not None and self.paths.adapter(trial.number).is_dir()]
        ranked = sorted(there, key=lambda trial: (-(trial.value or 0.0), trial.number))
        kept, dropped = ranked[: self.config.store.keep_adapters], ranked[self.config.store.keep_adapters :]
        tracked = set(self.search.attributes.get("adapters", []))
        for trial in kept:
            if trial.number not in tracked:
                self.tracker.log_file(trial_key(trial.number), self.paths.adapter(trial.number), ADAPTER)
        for trial in dropped:
            shutil.rmtree(self.paths.adapter(trial.number), ignore_errors=True)
            self.tracker.drop_files(trial_key(trial.number), ADAPTER)
        self.search.remember("adapters", [trial.number for trial in kept])

    def _checkpoint_due(self, bench: Workbench) -> None:
        for slot in bench.pack.slots:
            if time.monotonic() - self._saved_at[slot.number] >= self.config.checkpoint.every_s:
                self._checkpoint(bench, slot)

    def _checkpoint(self, bench: Workbench, slot: Slot) -> None:
        self.tracker.flush()  # what the checkpoint has behind it would not be logged again
        room_bytes = self.config.checkpoint.max_gib * checkpoint.GIB - self.paths.checkpoints_bytes()
        try:
            checkpoint.save(self.paths.checkpoint(slot.number), slot, bench.pack.state(slot), room_bytes)
        except CheckpointError as error:  # the trial goes on; only an interruption would cost it more
            logger.warning("trial %d has no new checkpoint: %s", slot.number, error)
            self.events.write("checkpoint_skipped", number=slot.number, message=str(error))
        self._saved_at[slot.number] = time.monotonic()

    def _suspend(self, bench: Workbench) -> None:
        """Checkpoints every trial in flight and puts it back into the queue."""
        for slot in bench.pack.slots:
            self._checkpoint(bench, slot)
        self._abandon(bench.pack.slots, has_crashed=False)
        self.events.write("suspended", numbers=[slot.number for slot in bench.pack.slots])

    def _abandon(self, slots: list[Slot], has_crashed: bool) -> None:
        """Puts the trials in flight back as of their last checkpoints, and says so in both stores."""
        for slot in slots:
            self.search.requeue(slot.number, has_crashed)
            self.tracker.end(trial_key(slot.number), RunState.SCHEDULED, {"sweeper.state": "WAITING"})
        self._reconcile()
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
