"""One trial of a study once more: beside stand-ins for its neighbours, or alone.

Beside stand-ins every shape is what it was, and so is every rounding: on the same machine in float32 the trial is
the same, however much its training amplifies rounding. Alone it costs less, and shows what neighbours change: rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from filelock import FileLock, Timeout

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.config.teaching import METRICS
from sweeper.engine import adapter
from sweeper.engine.bucket import AdapterState
from sweeper.engine.slot import Slot
from sweeper.errors import DataError, OutOfRoomError, StoreError
from sweeper.memory.oom import Failure, attempted
from sweeper.paths import Home, StudyPaths
from sweeper.search.running import LOOK_S
from sweeper.search.views import StudyView, TrialView, view
from sweeper.trial import Company, Reason
from sweeper.worker.forgetting import RETENTION, hold_to_base
from sweeper.worker.memory import forecast_of, guarded
from sweeper.worker.workbench import Workbench, set_up


@dataclass(frozen=True)
class Rerun:
    """A trial's evaluations as recorded, and as they came out again."""

    study: str
    trial: int
    metric: str
    examples: list[int]  # seen at each evaluation
    recorded: list[float]
    again: list[float]
    is_alone: bool  # in a pack of one
    rows: int  # of the validation split that each evaluation reads
    tolerance: float  # what the metric may differ by
    has_diverged: bool  # as recorded
    diverged_at_step: int | None  # again
    adapter: str | None  # the folder, where it was brought back

    @property
    def largest_difference(self) -> float | None:
        """Of the metric, over all evaluations; None where one of the two has evaluations that the other lacks."""
        if len(self.recorded) != len(self.again):
            return None
        return max((abs(a - b) for a, b in zip(self.recorded, self.again, strict=True)), default=0.0)

    @property
    def is_same(self) -> bool:
        """Whether the trial went the same way, each evaluation within the tolerance."""
        difference, rounding = self.largest_difference, 1e-9 * max([1.0, *map(abs, self.recorded)])
        is_near = difference is not None and difference <= self.tolerance + rounding
        return is_near and self.has_diverged == (self.diverged_at_step is not None)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "largest_difference": self.largest_difference, "is_same": self.is_same}

    def summary(self) -> str:
        """The comparison in words."""
        name = f"trial {self.trial} of {self.study}"
        lines = []
        how = "alone" if self.is_alone else "again"
        for examples, recorded, value in zip_longest(self.examples, self.recorded, self.again):
            pair = [f"{score:.4f}" if score is not None else "none" for score in (recorded, value)]
            lines.append(f"after {examples} examples: recorded {pair[0]}, {how} {pair[1]}")
        if self.diverged_at_step is not None:
            lines.append(f"diverged at step {self.diverged_at_step}" + ("" if self.has_diverged else f", only {how}"))
        elif self.has_diverged:
            lines.append("did not diverge, but the recorded one did")
        if self.largest_difference is not None:
            row = f" (one of {self.rows} validation rows is {self.tolerance:.4f})" if self.tolerance else ""
            lines.append(f"{name}: largest difference in {self.metric} {self.largest_difference:.4f}{row}")
        lines.append(f"{name} is {'the same' if self.is_same else 'NOT the same'} {how}")
        if self.adapter is not None:
            lines.append(f"its adapter is back in {self.adapter}: sweeper export {self.study} --trial {self.trial}")
        return "\n".join(lines)


@contextmanager
def _alone(paths: StudyPaths) -> Iterator[None]:
    """No worker of the study runs while the block does."""
    lock = FileLock(paths.work_lock)
    try:
        lock.acquire(timeout=LOOK_S)
    except Timeout:
        raise StoreError(
            f"no worker of the study may run meanwhile, but one of {paths.name!r} does; stop it first"
        ) from None
    with lock:
        yield


def rerun(home: Home, study: str, number: int, is_alone: bool, announce: Callable[[str], None]) -> Rerun:
    """Trains trial `number` again, as far as it went.

    Args:
        is_alone: in a pack of one; otherwise beside stand-ins for the trials that it trained beside.

    Raises:
        StoreError: if there is no such trial, it has not ended, or a worker of the study runs.
        OutOfRoomError: if it does not fit into memory.
        DataError: if the data is not what the study was trained on.
    """
    seen = view(home, study)
    paths = home.study(study)
    config = check.load(paths)
    trial = _ended(seen, number)
    with _alone(paths), guarded(config) as guard:
        announce(f"loading {config.model.name}")
        bench = set_up(config, home, guard)
        forecast_of(bench, config, guard, home.memory)  # so that chunks are cut to fit
        _compare(seen, bench, announce)
        if bench.retention is not None:
            hold_to_base(bench, paths, seen.attributes.get(RETENTION))
        trained = attempted(lambda: _train(bench, config, trial, seen, is_alone, announce))
        if isinstance(trained, Failure):
            raise OutOfRoomError(
                f"a trial must fit into memory to be run again, but trial {number} did not ({trained.message}); "
                f"{guard.describe()}"
            )
        slot, diverged_at_step = trained
        metric = config.objective.metric_name
        count = max(len(slot.evaluations), len(trial.evaluations))
        result = Rerun(
            study=study,
            trial=number,
            metric=metric,
            examples=[slot.rhythm.interval_examples * (index + 1) for index in range(count)],
            recorded=list(trial.evaluations),
            again=[values[metric] for values in slot.evaluations],
            is_alone=is_alone,
            rows=len(bench.validation.rows),
            # What a row is worth to a metric of the user's is not known.
            tolerance=1 / len(bench.validation.rows) if metric in METRICS[config.task.name] else 0.0,
            has_diverged=trial.reason == Reason.DIVERGED,
            diverged_at_step=diverged_at_step,
            adapter=None,
        )
        file = paths.predictions(number)
        if result.is_same and trial.same_as is None and slot.best_predictions is not None and not file.is_file():
            bench.keep(file, bench.validation, slot.best_predictions)  # of a trial that ended before they were kept
        folder = paths.adapter(number)
        # An export says the scores that were recorded: they must be this adapter's.
        if trial.state == "COMPLETE" and result.is_same and slot.best_adapter is not None and not folder.is_dir():
            adapter.write(folder, slot.best_adapter, slot.params, bench.base_name, bench.linears, bench.base_revision)
            result = replace(result, adapter=str(folder))
    return result


def _compare(seen: StudyView, bench: Workbench, announce: Callable[[str], None]) -> None:
    """Refuses other data than the study was trained on, and says another precision."""
    if seen.attributes.get("data_sha256", bench.data_sha256) != bench.data_sha256:
        raise DataError(
            f"a trial is run again on the data it was trained on, but that of {seen.name!r} has changed "
            f"(its sha256 was {seen.attributes['data_sha256'][:12]}…, is {bench.data_sha256[:12]}…)"
        )
    if bench.replay is not None:
        bench.replay.hold_to(seen.attributes.get("replay_sha256"))
    if (was := seen.attributes.get("dtype", bench.dtype)) != bench.dtype:
        announce(f"the study has computed in {was}, and here does in {bench.dtype}: it will not be quite the same")


def _ended(seen: StudyView, number: int) -> TrialView:
    found = [trial for trial in seen.trials if trial.number == number]
    if not found:
        raise StoreError(f"study {seen.name!r} has trials 0 to {len(seen.trials) - 1}, but not {number}")
    if not found[0].is_told:
        raise StoreError(f"a trial must have ended to be run again, but trial {number} is {found[0].state}")
    if found[0].is_rejected:
        raise StoreError(f"only a trial that was trained is run again, but trial {number} was {found[0].detail}")
    return found[0]


class _Company:
    """Stand-ins for the trials beside which a trial trained, in the pack as those came and went.

    They make the same shapes and so the same rounding; what they learn is of no account.
    """

    def __init__(self, bench: Workbench, config: Config, study: StudyView, slot: Slot) -> None:
        self._bench, self._config, self._slot = bench, config, slot
        self._params = {trial.number: trial.params for trial in study.trials}
        trial = study.trials[slot.number]
        self._number = slot.number if trial.same_as is None else trial.same_as
        self._recorded = {company.step: company for company in map(Company.model_validate, trial.company)}

    def gather(self) -> None:
        """Makes the pack what it was when the trial was at its step."""
        company, pack = self._recorded.get(self._slot.step), self._bench.pack
        if company is None:
            return
        own = pack.state(self._slot)
        for slot in list(pack.slots):
            pack.remove(slot)
        for number, step in company.slots:  # in their order in the pack
            pack.admit(*((self._slot, own) if number == self._number else self._stand_in(number, step)))

    def _stand_in(self, number: int, step: int) -> tuple[Slot, AdapterState]:
        params = self._config.trial_params(self._params[number])
        rhythm = self._config.rhythm(params, len(self._bench.pack.examples))
        slot, state = self._bench.pack.new_slot(number, params, rhythm, self._config.train.seed)
        slot.step = step
        return slot, state


def _train(
    bench: Workbench,
    config: Config,
    trial: TrialView,
    study: StudyView,
    is_alone: bool,
    announce: Callable[[str], None],
) -> tuple[Slot, int | None]:
    """The trial again, and the step at which it diverged, if it did."""
    params = config.trial_params(trial.params)
    rhythm = config.rhythm(params, len(bench.pack.examples))
    slot, state = bench.pack.new_slot(trial.number, params, rhythm, config.train.seed)
    bench.pack.admit(slot, state)
    announce(f"training trial {trial.number}" + (" alone" if is_alone else " beside stand-ins for its neighbours"))
    # A trial that ended between evaluations, or before the first, is followed to that place; what is recorded of
    # one that diverged includes the step at which it did, as here.
    last = max(trial.examples_seen or 0, rhythm.interval_examples * max(1, len(trial.evaluations)))
    company = _Company(bench, config, study, slot)
    while not slot.is_finished and slot.examples_seen < last:
        if not is_alone:
            company.gather()
        tick = bench.pack.tick()[bench.pack.slots.index(slot)]
        if not tick.is_finite:
            return slot, slot.step
        if rhythm.is_evaluation(slot.step):
            bench.evaluate([slot], config)
            announce(f"{config.objective.metric_name} {slot.evaluations[-1][config.objective.metric_name]:.4f}")
    return slot, None
