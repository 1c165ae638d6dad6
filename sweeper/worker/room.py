"""Who of the trials in flight trains, who waits for memory, and who must go for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sweeper.config.schema import Config
from sweeper.engine.bucket import AdapterState
from sweeper.engine.slot import Slot
from sweeper.errors import OutOfRoomError
from sweeper.memory.oom import Failure, attempted, free_caches, patiently
from sweeper.memory.planner import MAX_RETRIES
from sweeper.money.booking import Activity
from sweeper.search.asking import Asked
from sweeper.worker.checkpoints import Checkpoints
from sweeper.worker.memory import MemoryLog
from sweeper.worker.recorder import Records
from sweeper.worker.workbench import Timing, Workbench

Result = TypeVar("Result")
NEIGHBOUR_PAUSE_S = 1.0
NOTES_EVERY = 60  # pauses


@dataclass(frozen=True)
class Waiting:
    """A trial that is asked, but has no room.

    Attributes:
        beside: the most others that it may go in beside; None: as many as fit.
        is_pressed: whether that was under a neighbour's pressure, and holds no longer than it.
        progress: where it was, if that could not be written to its checkpoint.
    """

    asked: Asked
    beside: int | None = None
    is_pressed: bool = False
    progress: tuple[Slot, AdapterState] | None = None


class Room:
    """The places in one worker's pack.

    Args:
        records: where what happens to the trials is said.
        refuse: told which trial does not fit, not even alone, and what failed.
        empty: a trial at its beginning, without its tensors; None: that of the study's search.
        book: books what has passed since it was last called.
    """

    def __init__(
        self,
        config: Config,
        bench: Workbench,
        memory: MemoryLog,
        checkpoints: Checkpoints,
        records: Records,
        refuse: Callable[[Slot, str], None],
        empty: Callable[[Asked], Slot] | None = None,
        book: Callable[[Activity], object] = lambda _: None,
    ) -> None:
        self._config = config
        self._bench = bench
        self._memory = memory
        self._checkpoints = checkpoints
        self._records = records
        self._refuse = refuse
        self._book = book
        self._empty = empty or self._empty_trial
        self.asked: dict[int, Asked] = {}  # of the trials in the pack
        self.waiting: dict[int, Waiting] = {}
        self._pauses = 0
        self._paused_since: float | None = None  # time.monotonic

    def next_waiting(self) -> Asked | None:
        """The first of those that wait, if it has room now."""
        first = self.waiting[min(self.waiting)]
        return first.asked if self._has_room(first) else None

    def admit(self, asked: Asked) -> Slot | None:
        """Lets a trial train; None where it waits for others to leave, or is refused."""
        waiting = self.waiting.pop(asked.number, Waiting(asked))
        pack = self._bench.pack
        if not self._has_room(waiting):
            self._park(waiting)
            return None
        slot = attempted(lambda: patiently(lambda: self._let_in(waiting)))
        if not isinstance(slot, Failure):
            self._paused_since = None
            self.asked[asked.number] = asked
            return slot
        free_caches()
        is_pressed = self._memory.is_pressed()
        if pack.slots:
            self._park(Waiting(asked, len(pack.slots) - 1, is_pressed, waiting.progress))
        elif is_pressed:
            self._park(waiting)
            self._pause(slot.message)
        else:
            self._refuse(self._as_it_was(waiting), slot.message)
        return None

    def evaluate(self, due: Sequence[Slot], is_stopping: Callable[[], bool]) -> tuple[list[Slot], Timing | None]:
        """Scores the slots that are due on the validation split, together.

        Returns:
            Those that were scored, for one that had to leave for memory is not; and what the last attempt took.
        """
        took: Timing | None = None

        def evaluate() -> list[Slot]:
            nonlocal took
            here = [slot for slot in due if slot in self._bench.pack.slots]
            if here:
                took = self._bench.evaluate(here, self._config)
            return here

        return self.within(evaluate, is_stopping) or [], took

    def _park(self, waiting: Waiting) -> None:
        """A trial waits until others have left; it stays in flight, under its number."""
        self.waiting[waiting.asked.number] = waiting
        self._records.wait(waiting.asked.number)

    def _let_in(self, waiting: Waiting) -> Slot:
        """Puts a trial into the pack, from where it was or from its beginning."""
        number = waiting.asked.number
        slot, state = waiting.progress or self._checkpoints.load(number) or self._new(waiting.asked)
        self._bench.pack.admit(slot, state)
        return slot

    def _new(self, asked: Asked) -> tuple[Slot, AdapterState]:
        empty = self._empty(asked)
        slot, state = self._bench.pack.new_slot(asked.number, empty.params, empty.rhythm, empty.seed)
        slot.subset = empty.subset
        return slot, state

    def _empty_trial(self, asked: Asked) -> Slot:
        """A trial of the search at its beginning, without its tensors."""
        params = self._config.trial_params(asked.params)
        rhythm = self._config.rhythm(params, len(self._bench.pack.examples))
        return Slot(asked.number, params, rhythm, self._config.train.seed)

    def _as_it_was(self, waiting: Waiting) -> Slot:
        """A trial that is not in the pack, for what is recorded of it."""
        if waiting.progress is not None:
            return waiting.progress[0]
        loaded = attempted(lambda: self._checkpoints.load(waiting.asked.number))
        return loaded[0] if isinstance(loaded, tuple) else self._empty(waiting.asked)

    def _has_room(self, waiting: Waiting) -> bool:
        """Whether a trial fits beside those that train. One that would be alone is always let in."""
        pack = self._bench.pack
        if not pack.slots:
            return True
        # What did not fit will not fit again, whatever is foretold.
        if waiting.beside is not None and len(pack.slots) > waiting.beside:
            return waiting.is_pressed and not self._memory.is_pressed()
        return self._memory.has_room(self._empty(waiting.asked).params, pack.stack)

    def leave(self, slot: Slot) -> AdapterState | None:
        """Takes a trial that has ended out of the pack; None where there is no memory for a copy of its tensors."""
        self.asked.pop(slot.number, None)
        pack = self._bench.pack
        state = attempted(lambda: patiently(lambda: pack.remove(slot)))
        if not isinstance(state, Failure):
            return state
        pack.discard(slot)
        return None

    def clear(self) -> None:
        """Takes all trials out, those that wait as well; nothing of theirs is kept."""
        self.asked.clear()
        self.waiting.clear()
        self._bench.pack.clear()

    def within(self, work: Callable[[], Result], is_stopping: Callable[[], bool]) -> Result | None:
        """Does what the pack does; where it does not fit, however it is cut, a trial leaves, and it is done again.

        Returns:
            What was done; None where no trial is left.

        Raises:
            OutOfRoomError: if others hold the memory for longer than `memory.wait_s`.
        """
        tries = 0
        while self._bench.pack.slots:
            done: Result | Failure
            try:
                done = attempted(work)
            except OutOfRoomError as error:  # the pack has tried
                done, tries = Failure(str(error)), MAX_RETRIES
            if not isinstance(done, Failure):
                self._paused_since = None
                return done
            free_caches()
            tries += 1
            if tries > MAX_RETRIES:
                self._make_room(done.message)
                tries = 0
            if is_stopping():
                break
        return None

    def outlast(self, work: Callable[[], Result]) -> Result:
        """Does what needs the base, and no trial; waits where neighbours leave no memory for it.

        Raises:
            OutOfRoomError: if there is none, and no neighbour to wait for.
        """
        while True:
            done: Result | Failure
            try:
                done = attempted(work)
            except OutOfRoomError as error:
                done = Failure(str(error))
            if not isinstance(done, Failure):
                self._paused_since = None
                return done
            free_caches()
            if not self._memory.is_pressed():
                raise OutOfRoomError(self._memory.in_words(f"the base alone must fit, but: {done.message}"))
            self._pause(done.message)

    def _make_room(self, failure: str) -> None:
        """Evicts the youngest trial; the last one waits for a neighbour on the device, or is infeasible."""
        pack = self._bench.pack
        slot = max(pack.slots, key=lambda slot: slot.number)
        is_pressed = self._memory.is_pressed()
        if len(pack.slots) == 1:
            if is_pressed:
                self._pause(failure)
                return
            pack.discard(slot)
            del self.asked[slot.number]
            self._refuse(slot, failure)
            return
        others = len(pack.slots) - 1
        state = attempted(lambda: pack.remove(slot))
        progress = None  # without its tensors it goes on from its last checkpoint
        if isinstance(state, Failure):
            if is_pressed:
                self._pause(failure)
                return
            pack.discard(slot)
        elif not self._checkpoints.save(pack, slot, state):
            progress = (slot, state)
        self._memory.evictions += 1
        name = self._records.describe(slot.number)
        self._records.events.write("evicted", number=slot.number, message=f"{name} waits for memory: {failure}")
        self._park(Waiting(self.asked.pop(slot.number), others - 1, is_pressed, progress))

    def _pause(self, failure: str) -> None:
        """A pause; a trial is not to blame for what others hold.

        Raises:
            OutOfRoomError: if the pauses have been long enough.
        """
        now, most_s = time.monotonic(), self._config.memory.wait_s
        if self._paused_since is None:
            self._paused_since, self._pauses = now, 0
        if now - self._paused_since > most_s:
            raise OutOfRoomError(
                f"others must leave the memory that the study was given, but they have held it for more than "
                f"memory.wait_s = {most_s:g} s ({failure}); its trials are kept: launch it again when the device is "
                f"free, or raise memory.wait_s. Now {self._memory.guard.describe()}"
            )
        if self._pauses % NOTES_EVERY == 0:
            self._records.events.write("note", message=f"waiting for memory that others hold: {failure}")
        self._pauses += 1
        self._book(Activity.OVERHEAD)
        time.sleep(NEIGHBOUR_PAUSE_S)
        self._book(Activity.IDLE)
