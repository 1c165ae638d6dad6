"""Sends what waits to be written to the runs of a study that does not run, and makes them agree with its storage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from sweeper.config import check
from sweeper.errors import ConfigError, number_of
from sweeper.events import EventLog
from sweeper.paths import StudyPaths
from sweeper.search.views import view
from sweeper.tracking.opened import opened
from sweeper.tracking.place import Place, record
from sweeper.tracking.spool import unsent, waiting
from sweeper.tracking.tracker import Watcher
from sweeper.worker.recorder import Recorder


@dataclass(frozen=True)
class Synced:
    """What came of it.

    Attributes:
        sent: operations that waited, and are done.
        left: those that wait still.
        is_even: whether the runs are known to be as the study's storage says.
    """

    sent: int
    left: int
    is_even: bool

    def in_words(self, paths: StudyPaths) -> str:
        if self.left:
            return unsent(self.left, paths)
        if not self.is_even:
            return "nothing waits, but whether the runs are as the study's storage says cannot be asked now"
        return f"{number_of(self.sent, 'write', 'writes')} sent: the runs of {paths.name} are as its storage says"


def sync(paths: StudyPaths, announce: Callable[[str], None]) -> Synced:
    """Sends it, if the store of the runs takes it.

    Args:
        announce: takes a line for the person.

    Raises:
        StoreError: if there is no such study, or what waits is another process's to send.
        ConfigError: if the runs are elsewhere than the settings and the environment say.
        TrackingError: if a tracking server refuses.
    """
    seen, config = view(paths.home, paths.name), check.load(paths)
    place, kept = Place.of(config), record(paths)
    last = kept.places[-1] if kept is not None and kept.places else None
    if last is not None and (last.uri, last.experiment) != (place.uri, place.experiment):
        raise ConfigError(
            f"tracking.uri: what waits goes to where the study's runs are, {last}, but the settings and the "
            f"environment name {place}; set MLFLOW_TRACKING_URI as it was, or launch the study where its runs are to be"
        )
    count = waiting(paths.spool)
    watcher = Watcher(announce, lambda: False)
    with (
        closing(EventLog(paths.events)) as events,
        closing(opened(paths, config, config.tracking.patience_s, watcher, "sync")) as tracker,
    ):
        recorder = Recorder(paths, config, tracker, events)
        tracker.flush()
        recorder.reconcile_runs(seen.trials)
        left = recorder.conclude(lambda: seen.trials)
    return Synced(max(count - left, 0), left, not left and not recorder.is_behind)
