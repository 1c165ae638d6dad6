"""Opens the tracker of a study, wherever its runs are."""

from __future__ import annotations

from sweeper.config.schema import Config
from sweeper.paths import StudyPaths
from sweeper.tracking.mlflow_server import ServerTracker
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import Place, identify, known
from sweeper.tracking.spool import Spool
from sweeper.tracking.tracker import Watcher


def opened(
    paths: StudyPaths,
    config: Config,
    patience_s: float = 0.0,
    watcher: Watcher | None = None,
    spool: str | None = None,
) -> MlflowTracker:
    """The tracker of the place that the settings and the environment name.

    Args:
        patience_s: how long one that is away is waited for.
        watcher: who is told of that, and may end it.
        spool: the name of the spool in the study's folder where what cannot be written now waits; None: in memory.

    Raises:
        ConfigError: if they name none.
        HeldError: if another process has the spool.
        TrackingError: if a server cannot be reached, or refuses; with a spool, that is said by what is called later.
    """
    place, study_id = known(paths, Place.of(config)), identify(paths)
    kept = Spool(paths.spool, spool) if spool is not None else None
    if place.uri is None:
        return MlflowTracker(paths.home, paths.name, study_id, patience_s, watcher, kept)
    return ServerTracker(paths.home, paths.name, place, study_id, patience_s, watcher, kept)
