"""Retention in a study's course: the base is scored once, and the best trials in full, before they are told."""

from __future__ import annotations

from typing import Any

from sweeper.config.schema import Config
from sweeper.errors import DataError
from sweeper.events import EventLog
from sweeper.paths import StudyPaths
from sweeper.retention.measure import FULL, PREFIX
from sweeper.retention.watch import in_words
from sweeper.search.study import Search
from sweeper.search.views import StudyView
from sweeper.worker.workbench import Workbench

RETENTION = "retention"  # attribute of the study
UNCONFIRMED = 2  # where nothing is confirmed: a winner and its runner-up


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


def measure_base(bench: Workbench, paths: StudyPaths, search: Search, events: EventLog) -> bool:
    """Scores the base on the suite, once in a study's life, and says what an adapter may lose.

    Returns:
        False where the base's answers are kept here from before, so that nothing was scored.
    """
    attributes = search.attributes
    before = attributes.get(RETENTION) if "baseline" in attributes else None  # what measured nothing binds to nothing
    is_kept = before is not None and paths.retention.is_file()
    if before is None:
        events.write("retention_started")
    now = hold_to_base(bench, paths, before)
    if before is None:
        search.remember(RETENTION, now)
        events.write("retention", message=in_words(now))
    return not is_kept


def base_metrics(attributes: dict[str, Any]) -> dict[str, float]:
    """What the untuned base's run shows of its retention."""
    if (retention := attributes.get(RETENTION)) is None:
        return {}
    found = {PREFIX + name: retention["sample"][name] for name in ("accuracy", "perplexity") if name in retention}
    found |= {FULL + name: retention[name] for name in ("accuracy", "perplexity") if name in retention}
    return {**found, f"{PREFIX}drop": 0.0, f"{PREFIX}noise_floor": retention["sample"]["noise_floor"]}


def is_finalist(seen: StudyView, config: Config, merit: float) -> bool:
    """Whether a trial that has come to its end is, so far, one of the best configurations.

    Those are held to the whole suite before they are told, so that whoever is among the best at the end has been: their
    adapters are the ones that are kept.
    """
    count = config.confirmation.top or UNCONFIRMED
    best = seen.finalists(count)
    return len(best) < count or merit >= (best[-1].merit or 0.0)
