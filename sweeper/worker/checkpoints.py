"""When the trials in flight are checkpointed, and how they come back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sweeper.config.schema import Config
from sweeper.engine import checkpoint
from sweeper.engine.bucket import AdapterState
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot
from sweeper.errors import CheckpointError, LeaseLostError, TrackingError
from sweeper.memory.oom import Failure, attempted, free_caches
from sweeper.paths import StudyPaths
from sweeper.units import GIB
from sweeper.worker.recorder import Records

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one worker's trials.

    Args:
        records: where what happens to the trials is said.
        file: where the checkpoint of each lies, by its number.
        confirm: asked before one is written; raises LeaseLostError where the trial is another worker's.
        bring: brings a file that another machine has written.
    """

    def __init__(
        self,
        paths: StudyPaths,
        config: Config,
        records: Records,
        file: Callable[[int], Path],
        confirm: Callable[[int], None] = lambda _: None,
        bring: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._paths = paths
        self._config = config
        self._records = records
        self._file = file
        self._confirm, self._bring = confirm, bring
        self._saved_at: dict[int, float] = {}

    def start(self, number: int) -> None:
        """A trial trains from now on."""
        self._saved_at[number] = time.monotonic()

    def load(self, number: int) -> tuple[Slot, AdapterState] | None:
        """A trial as of its checkpoint; None where it has none, or a damaged one: it then begins again."""
        file = self._file(number)
        self._bring(file)
        if not file.is_file():
            return None
        try:
            return checkpoint.load(file)
        except CheckpointError as error:
            logger.warning("%s begins again: %s", self._records.describe(number), error)
            self._records.events.write("checkpoint_damaged", number=number, message=str(error))
            return None

    def has(self, number: int) -> bool:
        """Whether a trial has a checkpoint."""
        self._bring(self._file(number))
        return self._file(number).is_file()

    def save_due(self, pack: Pack) -> list[int]:
        """Saves the trials whose last checkpoint is `checkpoint.every_s` old; returns their numbers."""
        now, every_s = time.monotonic(), self._config.checkpoint.every_s
        due = [slot for slot in pack.slots if now - self._saved_at[slot.number] >= every_s]
        for slot in due:
            self.save(pack, slot)
        return [slot.number for slot in due]

    def save(self, pack: Pack, slot: Slot, state: AdapterState | None = None) -> bool:
        """Saves one trial, or says why it has no new checkpoint: it goes on, and an interruption would cost it more.

        Args:
            state: of a slot that has left the pack.

        Returns:
            Whether it is saved.
        """
        try:
            self._confirm(slot.number)
        except LeaseLostError:
            return False  # the checkpoint is another worker's; the trial is let go at its next evaluation
        try:
            # What it has behind it would not be logged again; but a store that is away is not waited for.
            self._records.tracker.settle()
        except TrackingError as error:  # a trial's progress is worth more than its course in MLflow
            logger.warning(
                "the metrics of %s are not written before its checkpoint: %s",
                self._records.describe(slot.number),
                error,
            )
        room_bytes = self._config.checkpoint.max_gib * GIB - self._paths.checkpoints_bytes()
        file = self._file(slot.number)
        problem = None
        try:
            done = attempted(lambda: checkpoint.save(file, slot, state or pack.state(slot), room_bytes))
        except CheckpointError as error:
            problem = str(error)
        else:
            if isinstance(done, Failure):
                free_caches()
                problem = f"there is no memory for it: {done.message}"
        if problem is not None:
            logger.warning("%s has no new checkpoint: %s", self._records.describe(slot.number), problem)
            self._records.events.write("checkpoint_skipped", number=slot.number, message=problem)
        self._saved_at[slot.number] = time.monotonic()
        return problem is None
