"""One trial of a study once more, alone: what it gave in the pack must be what it gives by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.engine import adapter
from sweeper.engine.pack import Slot
from sweeper.errors import DataError, StoreError
from sweeper.paths import Home
from sweeper.search.study import StudyView, TrialView, view
from sweeper.worker.workbench import Workbench, set_up


@dataclass(frozen=True)
class Rerun:
    """A trial's evaluations as recorded, and as they came out alone."""

    study: str
    trial: int
    metric: str
    examples: list[int]  # seen at each evaluation
    recorded: list[float]
    alone: list[float]
    rows: int  # of the validation split that each evaluation reads
    diverged_at_step: int | None
    adapter: str | None  # the folder, where it was brought back

    @property
    def largest_difference(self) -> float:
        """Of the metric, over all evaluations."""
        return max((abs(a - b) for a, b in zip(self.recorded, self.alone, strict=False)), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "largest_difference": self.largest_difference}

    def summary(self) -> str:
        """The comparison in words."""
        lines = [
            f"after {examples} examples: recorded {recorded:.4f}, alone {alone:.4f}"
            for examples, recorded, alone in zip(self.examples, self.recorded, self.alone, strict=False)
        ]
        if self.diverged_at_step is not None:
            lines.append(f"diverged at step {self.diverged_at_step}")
        lines.append(
            f"trial {self.trial} of {self.study}: largest difference in {self.metric} "
            f"{self.largest_difference:.4f} (one of {self.rows} validation rows is {1 / self.rows:.4f})"
        )
        if self.adapter is not None:
            lines.append(f"its adapter is back in {self.adapter}: sweeper export {self.study} --trial {self.trial}")
        return "\n".join(lines)


def rerun(home: Home, study: str, number: int, announce: Callable[[str], None]) -> Rerun:
    """Trains trial `number` again in a pack of one, as far as it went.

    Raises:
        StoreError: if there is no such trial, it has not ended, or a worker of the study runs.
        DataError: if the data is not what the study was trained on.
    """
    seen = view(home, study)
    paths = home.study(study)
    config = check.load(paths)
    trial = _ended(seen, number)
    lock = FileLock(paths.worker_lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"no worker of the study may run meanwhile, but one of {study!r} does; stop it first"
        ) from None
    with lock:
        announce(f"loading {config.model.name}")
        bench = set_up(config, home)
        if seen.attributes.get("data_sha256", bench.data_sha256) != bench.data_sha256:
            raise DataError(
                f"a trial is run again on the data it was trained on, but that of {study!r} has changed "
                f"(its sha256 was {seen.attributes['data_sha256'][:12]}…, is {bench.data_sha256[:12]}…)"
            )
        slot, diverged_at_step = _train(bench, config, trial, announce)
        folder = paths.adapter(number)
        is_brought_back = trial.state == "COMPLETE" and not folder.is_dir()
        if is_brought_back:
            assert slot.best_adapter is not None  # a complete trial was evaluated
            adapter.write(folder, slot.best_adapter, slot.params, bench.base_name, bench.linears)
    metric = config.objective.metric
    return Rerun(
        study=study,
        trial=number,
        metric=metric,
        examples=[slot.rhythm.interval_examples * (index + 1) for index in range(len(slot.evaluations))],
        recorded=list(trial.evaluations),
        alone=[values[metric] for values in slot.evaluations],
        rows=len(bench.validation.truth),
        diverged_at_step=diverged_at_step,
        adapter=str(folder) if is_brought_back else None,
    )


def _ended(seen: StudyView, number: int) -> TrialView:
    found = [trial for trial in seen.trials if trial.number == number]
    if not found:
        raise StoreError(f"study {seen.name!r} has trials 0 to {len(seen.trials) - 1}, but not {number}")
    if not found[0].is_told:
        raise StoreError(f"a trial must have ended to be run again, but trial {number} is {found[0].state}")
    return found[0]


def _train(
    bench: Workbench, config: Config, trial: TrialView, announce: Callable[[str], None]
) -> tuple[Slot, int | None]:
    """The trial alone, and the step at which it diverged, if it did."""
    params = config.trial_params(trial.params)
    rhythm = config.rhythm(params, len(bench.pack.examples))
    slot, state = bench.pack.new_slot(trial.number, params, rhythm, config.train.seed)
    bench.pack.admit(slot, state)
    announce(f"training trial {trial.number} alone")
    # A trial that ended between evaluations, or before the first, is followed to that place.
    while not slot.is_finished and slot.examples_seen < (trial.examples_seen or rhythm.interval_examples):
        [tick] = bench.pack.tick()
        if not tick.is_finite:
            return slot, slot.step
        if rhythm.is_evaluation(slot.step):
            bench.evaluate([slot], config)
            announce(f"{config.objective.metric} {slot.evaluations[-1][config.objective.metric]:.4f}")
    return slot, None
