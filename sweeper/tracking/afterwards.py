"""The run of a trial that ended before: what is found out of it later is logged there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sweeper.config.schema import Config
from sweeper.paths import StudyPaths
from sweeper.tracking.place import Place, record
from sweeper.tracking.spool import unsent, waiting
from sweeper.tracking.tracker import RunKey
from sweeper.trial import RunKind

if TYPE_CHECKING:
    from sweeper.tracking.mlflow_tracker import MlflowTracker


def run_of(
    paths: StudyPaths, config: Config, number: int, announce: Callable[[str], None]
) -> tuple[MlflowTracker, RunKey] | None:
    """The tracker that has a trial's run; None where it cannot be had, and why is said.

    Raises:
        TrackingError: if a server cannot be reached, or refuses.
    """
    from sweeper.tracking.opened import opened  # MLflow takes seconds to import, which reading does not need

    place, known = Place.of(config), record(paths)
    if place.uri is None and known is not None and known.places:
        announce(
            f"note: the study's runs are in {known.places[-1]}, where this is not logged: tracking.uri or "
            "MLFLOW_TRACKING_URI must say so"
        )
        return None
    tracker, key = opened(paths, config), RunKey(RunKind.TRIAL, number)
    if key not in tracker.states():
        count = waiting(paths.spool)
        why = unsent(count, paths) if count else f"MLflow has no run of trial {number} any more"
        announce(f"note: {why}: this is not logged there")
        return None
    return tracker, key
