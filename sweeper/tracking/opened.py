"""Opens the tracker of a study, wherever its runs are."""

from __future__ import annotations

from sweeper.config.schema import Config
from sweeper.paths import StudyPaths
from sweeper.tracking.mlflow_server import ServerTracker
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import Place, identify
from sweeper.tracking.tracker import Tracker, Watcher


def opened(paths: StudyPaths, config: Config, patience_s: float = 0.0, watcher: Watcher | None = None) -> Tracker:
    """The tracker of the place that the settings and the environment name.

    Args:
        patience_s: how long one that is away is waited for.
        watcher: who is told of that, and may end it.

    Raises:
        ConfigError: if they name none.
        TrackingError: if a server cannot be reached, or refuses.
    """
    place, study_id = Place.of(config), identify(paths)
    if place.uri is None:
        return MlflowTracker(paths.home, paths.name, study_id, patience_s, watcher)
    return ServerTracker(paths.home, paths.name, place, study_id, patience_s, watcher)
