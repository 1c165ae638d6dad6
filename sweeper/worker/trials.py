"""The trials in flight of one worker: asked, trained in packs, scored, told, until the study has its total.

A trial that is known to have ended has a *verdict*: what is left is to tell it. Verdicts are carried out
at once, or, with `search.deterministic`, in the order of the trials' numbers, each followed by the ask
that its place makes room for: what the sampler knows at an ask is then the same in every run.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial

from sweeper.config.schema import Config
from sweeper.engine.bucket import AdapterState
from sweeper.engine.slot import Slot
from sweeper.errors import LeaseLostError
from sweeper.money.booking import Activity, Whose
from sweeper.preflight.forecast import VRAM
from sweeper.search.asking import Asked
from sweeper.search.ended import Ended
from sweeper.search.stopping import no_longer_pays
from sweeper.search.study import Search
from sweeper.trial import Reason, RunKind
from sweeper.worker.checkpoints import Checkpoints
from sweeper.worker.forecast import Forecast
from sweeper.worker.lead import POLL_S, Lead
from sweeper.worker.memory import MemoryLog
from sweeper.worker.recorder import Recorder, curve
from sweeper.worker.room import Room
from sweeper.worker.spending import LOOK_S, BudgetSpent, Spending
from sweeper.worker.steps import Step
from sweeper.worker.teller import Teller
from sweeper.worker.workbench import Workbench

logger = logging.getLogger(__name__)
MAX_CRASHES = 3
WAITING = "waits for the trials of other workers; those of one that is silent for search.lease_s={:g} s go on here"


class Trials:
    """The trials that one worker has asked for and not told.

    Args:
        forecast: the constraints of a configuration, before it is trained.
        lead: whether this worker is to say why a search ended before its total.
        is_stopping: asked between ticks; True ends the training, with the trials where they are.

    Attributes:
        room: who of them trains.
        ended: why the search has ended before its total, as this worker sees it.
    """

    def __init__(
        self,
        config: Config,
        bench: Workbench,
        memory: MemoryLog,
        forecast: Forecast,
        search: Search,
        teller: Teller,
        recorder: Recorder,
        checkpoints: Checkpoints,
        spending: Spending,
        lead: Lead,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.config, self.bench, self.search, self.spending = config, bench, search, spending
        self.teller, self.recorder, self.checkpoints = teller, recorder, checkpoints
        self.events = recorder.events
        self.forecast, self.lead, self.is_stopping, self._memory = forecast, lead, is_stopping, memory
        self.room = Room(config, bench, memory, checkpoints, recorder, self._infeasible, book=spending.book)
        self._suspects: set[int] = set()  # trials that were in flight at an exception
        self._verdicts: dict[int, Callable[[], None]] = {}
        self._held: dict[int, tuple[Slot, AdapterState]] = {}  # out of the pack, but not told yet
        self._held_back_at = -math.inf
        self._refused: Ended | None = None  # why no other trial is asked for, until one has ended
        self.ended: Ended | None = None

    def train(self) -> None:
        """Trains until the study has its total, a stop is asked for, or the budget or the stop rule ends it."""
        try:
            self._loop()
        except BudgetSpent:  # in the middle of an evaluation, which has then not been
            self._end(self.spending.reached())

    def _loop(self) -> None:
        """Tell and refill, tick, score what is due, checkpoint."""
        pack = self.bench.pack
        is_waiting = False
        self._advance()
        while not self.is_stopping() and (pack.slots or not self.search.is_complete):
            self._hold_back()
            if self.spending.over() is not None:
                self._end(self.spending.reached())
                return
            if not pack.slots:
                if self.room.waiting:  # for neighbours on the device
                    self._advance()
                    continue
                if self._refused is not None and not self.search.in_flight:
                    if not self.lead or not self._do_others_train():
                        self._end(self._refused)
                        return
                    self._refused = None  # what theirs leave of the budget may be enough
                if not is_waiting:
                    self.events.write("note", message=WAITING.format(self.config.search.lease_s))
                is_waiting = True
                self.spending.book(Activity.OVERHEAD)
                time.sleep(POLL_S)
                self.spending.book(Activity.IDLE)
                self._advance()
                continue
            is_waiting = False
            self.room.within(pack.settle, self.is_stopping)  # by itself, or it would be booked as training
            started = time.monotonic()
            diverged: list[Slot] = []
            if not any(slot.is_due for slot in pack.slots):  # one that was interrupted before its evaluation may be
                self.spending.begin_tick(RunKind.TRIAL, pack.slots)
                ticks = self.room.within(pack.tick, self.is_stopping)
                if ticks is None:  # nobody is left to train
                    self._advance()
                    continue
                self.spending.end_tick(RunKind.TRIAL, pack.slots)
                self.recorder.step(Step(pack.slots, ticks, pack.planner.step, time.monotonic() - started))
                diverged = [slot for slot, tick in zip(pack.slots, ticks, strict=True) if not tick.is_finite]
            for slot in diverged:  # before the evaluation, which may have to evict
                slot.duration_s += time.monotonic() - started
                self._conclude(slot, partial(self.teller.prune, slot, Reason.DIVERGED))
            due = self._evaluate([slot for slot in pack.slots if slot.is_due])
            spent_s = time.monotonic() - started
            for slot in pack.slots:
                slot.duration_s += spent_s
            for slot in due:
                self._judge(slot)
            self.spending.book(Activity.OVERHEAD)
            saved = self.checkpoints.save_due(self.bench.pack)
            self.spending.book(Activity.CHECKPOINT, [Whose(RunKind.TRIAL, number) for number in saved])
            self._advance()

    def _hold_back(self) -> None:
        """Keeps what confirmation and test will take; the storage is read for it only so often, or after a verdict."""
        if self.spending.is_limited and time.monotonic() - self._held_back_at >= LOOK_S:
            self.spending.hold_back(self.spending.finishing_s(self.search.seen()))
            self._held_back_at = time.monotonic()

    def _do_others_train(self) -> bool:
        own = self.search.in_flight
        return any(trial.state == "RUNNING" and trial.number not in own for trial in self.search.views())

    def _end(self, ended: Ended) -> None:
        """Remembers why there are no more trials; the one that ends the study says it."""
        self.ended = ended
        if self.lead:
            self.spending.end(ended)

    def _advance(self) -> None:
        """Carries out verdicts and fills the slots, in turns."""
        self._refill()
        # Where order counts, no verdict comes before the ask that the one before it made room for: a stop ends asking.
        while not (self.config.search.deterministic and self.is_stopping()) and self._carry_out():
            self._refill()

    def _refill(self) -> None:
        while not self.is_stopping():
            if self.room.waiting:
                waited = self.room.next_waiting()
                if waited is None:
                    return
                self.recorder.begin(waited)
                if not self._admit(waited):
                    return  # the pack must move first
                continue
            are_suspected = self._suspects & {slot.number for slot in self.bench.pack.slots}
            limit = 1 if are_suspected else self.spending.pack_size.slots
            if len(self.search.in_flight) >= limit or not self._may_ask():
                return
            asked = self.search.ask()
            if asked is None or not self._can_pay(asked):
                return
            self._take(asked)
            if not self.config.search.deterministic:
                self._carry_out()

    def _may_ask(self) -> bool:
        """Whether another trial may be asked for, as far as is known before it is."""
        if self._refused is None:
            self._refused = no_longer_pays(self.config.stop, self.search.views(), self.config.objective.metric_name)
        if self._refused is not None:
            return False
        if not self.spending.is_limited and self.config.budget.trials is None:
            return True
        if self.spending.is_limited and not self.spending.can_foretell and self.search.in_flight:
            return False  # one trial by itself first shows what another will take
        if not any(trial.state == "WAITING" for trial in self.search.views()):
            self._refused = self._refusal(None)
        return self._refused is None

    def _refusal(self, asked: Asked | None) -> Ended | None:
        others = [number for number in self.search.in_flight if asked is None or number != asked.number]
        return self.spending.refusal(asked, others, self.bench.pack.slots)

    def _can_pay(self, asked: Asked) -> bool:
        """Whether a trial that was asked for can be paid to its end; else it waits for a raised budget."""
        self._refused = self._refusal(asked)
        if self._refused is not None:
            self.recorder.begin(asked)  # its number is taken, so that it is shown, as one that waits
            self.search.requeue(asked.number, has_crashed=False)
            self.recorder.wait(asked.number)
        return self._refused is None

    def _take(self, asked: Asked) -> None:
        """Begins a trial, goes on with it, or sees that it need not be trained."""
        params = self.config.trial_params(asked.params)
        constraints = self.teller.constraints[asked.number] = self.forecast(params)
        self.recorder.begin(asked)
        number = asked.number
        if self.checkpoints.has(number):  # it was let in, and what was foretold then holds
            constraints = self.teller.constraints[number] = {name: min(v, 0.0) for name, v in constraints.items()}
        if asked.crashes >= MAX_CRASHES:
            self._verdicts[number] = partial(self.teller.fail, asked)
        elif any(value > 0 for value in constraints.values()):
            self._verdicts[number] = partial(self.teller.reject, number)
        elif earlier := self.search.earlier(asked):
            self._verdicts[number] = partial(self.teller.repeat, number, earlier)
        else:
            self._admit(asked)

    def _admit(self, asked: Asked) -> bool:
        """Lets a trial train, if there is room for it beside the others; False where it waits."""
        slot = self.room.admit(asked)
        if slot is None:
            return asked.number in self._verdicts
        if asked.crashes:
            self._suspects.add(asked.number)
        self.checkpoints.start(asked.number)
        self.recorder.train(asked, slot)
        if slot.is_at_evaluation:  # it was interrupted between its evaluation and what followed from it
            self._judge(slot)
        return True

    def _evaluate(self, due: list[Slot]) -> list[Slot]:
        """Scores the slots that are due, together, and keeps the adapter of each one's best evaluation.

        Returns:
            Those that were scored: one that had to leave for memory is not.
        """
        if not due:
            return []
        self.events.write("evaluating", numbers=[slot.number for slot in due])
        self.spending.book(Activity.OVERHEAD)
        scored, took = self.room.evaluate(due, self.is_stopping)
        self.spending.evaluated(RunKind.TRIAL, scored, took)
        self.recorder.evaluations(scored)
        return scored

    def _infeasible(self, slot: Slot, failure: str) -> None:
        """A trial does not fit, not even alone."""
        self._verdicts[slot.number] = partial(self._refuse, slot, failure)

    def _refuse(self, slot: Slot, failure: str) -> None:
        """Tells a trial that does not fit, though it was foretold to: what was measured corrects the forecast."""
        self._memory.prunes += 1
        constraints = self.teller.constraints[slot.number]
        if VRAM in constraints:
            constraints[VRAM] = max(constraints[VRAM], self._memory.excess())
        self.teller.prune(slot, Reason.INFEASIBLE, self._memory.in_words(failure), self._memory.readings())

    def _judge(self, slot: Slot) -> None:
        """Reports a slot's latest evaluation: the trial goes on, is pruned, or is complete."""
        try:
            is_pruned = self.search.report(slot.number, curve(slot), may_prune=not slot.is_finished)
        except LeaseLostError as error:
            self._drop(slot, error)
            return
        if is_pruned:
            self._conclude(slot, partial(self.teller.prune, slot, Reason.PRUNER))
        elif slot.is_finished:
            self._conclude(slot, partial(self._complete, slot))
        elif (why := self._why_wrecked(slot)) is not None:
            self._conclude(slot, partial(self.teller.prune, slot, Reason.WRECKED, why))

    def _complete(self, slot: Slot) -> None:
        """Tells a trial that ran to its end; one of the best so far is held to all that the base could do before."""
        self.teller.complete(self.bench, slot, self._in_full(slot) if self.teller.is_finalist(slot) else {})

    def _in_full(self, slot: Slot) -> dict[str, float]:
        """Scores the best adapter of a trial on the whole retention suite, beside those that train."""

        def score() -> dict[str, float]:
            assert self.bench.retention is not None
            assert slot.best_adapter is not None
            guest = Slot(-1, slot.params, slot.rhythm, slot.seed)
            self.bench.pack.admit(guest, slot.best_adapter)
            try:
                [values] = self.bench.retention.score_full(self.bench.pack, [self.bench.pack.slots.index(guest)])
            finally:
                self.room.leave(guest)
            return values

        self.spending.book(Activity.OVERHEAD)
        found = self.room.within(score, lambda: False) or self.room.outlast(score)
        assert self.bench.retention is not None
        items, whose = self.bench.retention.full.items, Whose(RunKind.TRIAL, slot.number)
        self.spending.scored_suite(Activity.EVALUATE, items, [whose])
        return found

    def _why_wrecked(self, slot: Slot) -> str | None:
        """What a trial has lost, where that is certainly too much of the base's abilities and is to end it."""
        if self.bench.retention is None or not self.config.retention.stop_wrecked:
            return None
        yardstick, values = self.bench.retention.sampled, slot.evaluations[-1]
        return yardstick.loss_in_words(values) if yardstick.is_wrecked(values) else None

    def _conclude(self, slot: Slot, verdict: Callable[[], None]) -> None:
        """Takes a trial out of the pack; its verdict is carried out when its turn comes."""
        self._refused = None  # it may have taken less than was held back for it
        self._verdicts[slot.number] = verdict
        if (state := self.room.leave(slot)) is not None:
            self._held[slot.number] = (slot, state)

    def _carry_out(self) -> bool:
        """Carries out the next verdict; False where none can be."""
        candidates = sorted(self.search.in_flight)
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
        self._refused = None  # what it came to may change whether the search still pays
        self._held_back_at = -math.inf  # and who is confirmed
        self._held.pop(number, None)
        self.teller.constraints.pop(number)
        return True

    def _drop(self, slot: Slot, error: LeaseLostError) -> None:
        """Lets go of a trial that another worker has taken over; its run, folder and checkpoint are that one's."""
        self._forget(slot.number, error)
        self.room.leave(slot)
        self.teller.constraints.pop(slot.number)

    def _forget(self, number: int, error: LeaseLostError) -> None:
        logger.warning("trial %d is let go: %s", number, error)
        self.search.abandon(number)
        self.events.write("lease_lost", number=number, message=str(error))

    def save(self) -> None:
        """Checkpoints every trial in flight, as far as memory and disk allow."""
        for slot in self.bench.pack.slots:
            self.checkpoints.save(self.bench.pack, slot)
        for slot, state in self._held.values():
            if slot.is_at_evaluation:
                self.checkpoints.save(self.bench.pack, slot, state)
        for waiting in self.room.waiting.values():
            if waiting.progress is not None:
                self.checkpoints.save(self.bench.pack, *waiting.progress)

    def put_aside(self) -> None:
        """Puts the trials that the budget has stopped back into the queue, for when it is raised."""
        if not self.search.in_flight and not self.bench.pack.slots:
            return
        self.save()
        for number in self.search.in_flight:
            if self.search.requeue(number, has_crashed=False):
                self.recorder.wait(number)
        self._verdicts.clear()
        self._held.clear()
        self.room.clear()
