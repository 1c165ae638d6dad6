"""MLflow's own system metrics on a study's run: processor, memory, disk, network and GPU, averages of ten seconds.

They are read by MLflow's monitors, so that its page of system metrics knows them, and written as all points are: so a
server that is away for a while loses none, where MLflow's own loop would end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from sweeper.errors import TrackingError
from sweeper.tracking.tracker import STUDY, Tracker


class SystemMetrics(SystemMetricsMonitor):  # type: ignore[misc]
    """Reads them on a thread of its own; the steps go on from those that the run has.

    Args:
        run_id: of the study's run.
        tracking_uri: where that is.
    """

    def __init__(self, tracker: Tracker, run_id: str, tracking_uri: str) -> None:
        super().__init__(run_id, resume_logging=True, tracking_uri=tracking_uri)
        self._tracker = tracker
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Reads while the block runs."""
        thread = threading.Thread(target=self._watch, name="system metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while True:
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._ended.wait(self.sampling_interval):
                    return
            try:
                self.publish_metrics(self.aggregate_metrics())
            except TrackingError:  # the worker hears of it at its own next call
                return

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        named = {f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}
        self._tracker.log(STUDY, named, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
