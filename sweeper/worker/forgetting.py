"""Retention in a study's course: the base is scored once, and the finalists in full, before the best is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeper.config.schema import Config
from sweeper.engine import adapter
from sweeper.engine.pack import Slot
from sweeper.errors import DataError
from sweeper.events import EventLog
from sweeper.paths import StudyPaths
from sweeper.retention.measure import PREFIX
from sweeper.retention.watch import in_words
from sweeper.search.study import Search
from sweeper.search.views import TrialView
from sweeper.tracking.tracker import Tracker
from sweeper.worker.recorder import trial_key
from sweeper.worker.workbench import Workbench

RETENTION, EXCLUDED, FINALISTS = "retention", "excluded", "finalists"  # attributes of the study


def hold_to_base(bench: Workbench, paths: StudyPaths, known: dict[str, Any] | None) -> dict[str, Any]:
    """Holds adapters against the base's answers to the suite, which are measured where they are not kept.

    Args:
        known: what the study remembers of them.

    Returns:
        What it is to remember.

    Raises:
        DataError: if the items are not those that the study was begun with.
        StoreError: if what is kept is damaged.
    """
    watch, file = bench.retention, paths.retention
    assert watch is not None
    if known is not None and known["sha256"] != watch.full.sha256:
        raise DataError(
            f"retention: a study keeps the items that it was begun with, but their sha256 was {known['sha256'][:12]}… "
            f"and is {watch.full.sha256[:12]}…; put the files back, or study.name=NEW starts another"
        )
    if known is not None and file.is_file():
        watch.hold(watch.kept(file))
        return known
    watch.hold(watch.score_base(bench.pack))
    watch.keep(file)
    return known or watch.describe()


def measure_base(bench: Workbench, paths: StudyPaths, search: Search, events: EventLog) -> None:
    """Scores the base on the suite, once in a study's life, and says what an adapter may lose."""
    attributes = search.attributes
    before = attributes.get(RETENTION) if "baseline" in attributes else None  # what measured nothing binds to nothing
    if before is None:
        events.write("retention_started")
    now = hold_to_base(bench, paths, before)
    if before is None:
        search.remember(RETENTION, now)
        events.write("retention", message=in_words(now))


def base_metrics(attributes: dict[str, Any]) -> dict[str, float]:
    """What the untuned base's run shows of its retention."""
    if (retention := attributes.get(RETENTION)) is None:
        return {}
    found = {PREFIX + name: retention["sample"][name] for name in ("accuracy", "perplexity") if name in retention}
    found |= {f"{PREFIX}full_{name}": retention[name] for name in ("accuracy", "perplexity") if name in retention}
    return {**found, f"{PREFIX}drop": 0.0, f"{PREFIX}noise_floor": retention["sample"]["noise_floor"]}


class Finalists:
    """Scores the best trials on the whole suite.

    Args:
        tracker: where that is recorded.
    """

    def __init__(self, paths: StudyPaths, config: Config, search: Search, tracker: Tracker, events: EventLog) -> None:
        self._paths = paths
        self._config = config
        self._search = search
        self._tracker = tracker
        self._events = events

    def choose(self, bench: Workbench, candidates: Sequence[TrialView], count: int) -> list[TrialView]:
        """The first so many candidates that keep within the tolerance in full, the best first.

        One that does not is excluded from what the study may call its best, with all that have its result, and the
        next moves up. A candidate without an adapter of its own cannot be scored, and is passed over.
        """
        if bench.retention is None:
            return list(candidates[:count])
        held: list[TrialView] = []
        excluded = self._search.attributes.get(EXCLUDED, {})
        for trial in candidates:
            if len(held) == count:
                break
            if str(trial.number) in excluded or not self._paths.adapter(trial.number).is_dir():
                continue
            found = self._scored(bench, trial)
            if found["excess"] > 0:
                self._exclude(bench, trial, found)
            else:
                held.append(trial)
        return held

    def _scored(self, bench: Workbench, trial: TrialView) -> dict[str, float]:
        """A candidate's retention in full, measured once."""
        known: dict[str, dict[str, float]] = self._search.attributes.get(FINALISTS, {})
        if (found := known.get(str(trial.number))) is not None:
            return found
        self._events.write("retention_full", number=trial.number)
        assert bench.retention is not None
        params = self._config.trial_params(trial.params)
        rhythm = self._config.rhythm(params, len(bench.pack.examples))
        slot = Slot(trial.number, params, rhythm, self._config.train.seed)
        bench.pack.admit(slot, adapter.read(self._paths.adapter(trial.number), params))
        try:
            [values] = bench.retention.score_full(bench.pack, [bench.pack.slots.index(slot)])
        finally:
            bench.pack.discard(slot)
        plain = {name.removeprefix(PREFIX): value for name, value in values.items()}
        found = plain | {"excess": bench.retention.whole.excess(values)}
        self._tracker.log(
            trial_key(trial.number), {f"{PREFIX}full_{name}": value for name, value in plain.items()}, step=0
        )
        self._search.remember(FINALISTS, {**known, str(trial.number): found})
        return found

    def _exclude(self, bench: Workbench, trial: TrialView, found: dict[str, float]) -> None:
        assert bench.retention is not None
        plain = {PREFIX + name: value for name, value in found.items()}
        why = f"retention in full: {bench.retention.whole.loss_in_words(plain)}"
        alike = [other.number for other in self._search.views() if other.same_as == trial.number]
        excluded = self._search.attributes.get(EXCLUDED, {})
        self._search.remember(EXCLUDED, {**excluded, **{str(number): why for number in (trial.number, *alike)}})
        self._events.write("note", message=f"trial {trial.number} cannot be the best: {why}")
