"""MLflow as the store of a study's runs: what happens is given to a writer, which does it in order on a thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import AwayError
from sweeper.paths import Home
from sweeper.tracking.mlflow_runs import MlflowRuns, shown, shown_param
from sweeper.tracking.mlflow_system import SystemMetrics
from sweeper.tracking.operation import Kind, Operation, Point, as_fields
from sweeper.tracking.spool import Held, Spool
from sweeper.tracking.tracker import STUDY, DatasetUse, RunKey, RunState, Tracker, Watcher
from sweeper.tracking.view import RunsView
from sweeper.tracking.writer import Writer

logger = logging.getLogger(__name__)


class MlflowTracker(MlflowRuns, Tracker):
    """The runs of one study in the MLflow store of `home`; the experiment has the study's name.

    Args:
        study_id: what tells the study from another one of its name; a tag of each run.
        patience_s: how long a store that is away is waited for.
        watcher: who is told of that, and may end it.
        spool: where what cannot be written now waits; None: in memory, and a store that stays away is an error.

    Raises:
        TrackingError: as every method, where what was given before could not be written.
    """

    def __init__(
        self,
        home: Home,
        study: str,
        study_id: str | None = None,
        patience_s: float = 0.0,
        watcher: Watcher | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._spool = spool
        waiting = spool if spool is not None else Held()
        super().__init__(home, study, study_id, waiting)
        self._writer = Writer(self, patience_s, waiting)
        if watcher is not None:
            self._writer.announce, self._writer.is_stopping = watcher
        self._given: set[RunKey] = set()  # the runs that were started here
        if spool is None:
            self._writer.ask(self._connect)

    @property
    def place(self) -> str:
        return "store"

    @property
    def count(self) -> int:
        return self._waiting.count

    def has(self, key: RunKey) -> bool:
        return self._is_there(key) and (key in self._given or key in self._runs or not self._is_connected)

    def start(self, key: RunKey, name: str, params: dict[str, object], tags: dict[str, str]) -> None:
        self._given.add(key)
        fields = {
            "name": name,
            "params": {param: shown_param(value) for param, value in params.items()},
            "tags": _shown(tags),
        }
        self._writer.give(Operation(Kind.START, key, fields))

    def log(self, key: RunKey, metrics: dict[str, float], step: int) -> None:
        if self._is_there(key):
            self._writer.give(Operation.of_points(key, _points(metrics, step)))

    def log_missing(self, key: RunKey, metric: str, points: Sequence[tuple[int, dict[str, float]]]) -> None:
        if points and self._is_there(key):
            made = [point for step, metrics in points for point in _points(metrics, step)]
            self._writer.give(Operation(Kind.MISSING, key, {"metric": metric, "points": made}))

    def log_datasets(self, key: RunKey, datasets: Sequence[DatasetUse]) -> None:
        if self._is_there(key):
            self._writer.give(Operation(Kind.DATASETS, key, {"datasets": [as_fields(one) for one in datasets]}))

    def log_file(self, key: RunKey, file: Path, folder: str | None = None) -> None:
        file.stat()  # what is not here is no failure of the store
        if not self._is_there(key):
            return
        is_ours = file.is_relative_to(self._study_folder)
        is_copy = self._spool is not None and not is_ours  # what is not the study's may be gone a moment later
        path = str(file.relative_to(self._study_folder) if is_ours else file.absolute())
        if self._spool is not None and not is_ours:
            path = self._spool.copy(file)
        self._writer.give(Operation(Kind.FILE, key, {"path": path, "folder": folder, "is_copy": is_copy}))
        if self._spool is None and not is_ours:
            self._writer.flush()

    def drop_files(self, key: RunKey, folder: str) -> None:
        if self._is_there(key):
            self._writer.give(Operation(Kind.DROP, key, {"folder": folder}))
            if self._spool is None:
                self._writer.flush()

    def end(self, key: RunKey, state: RunState, tags: dict[str, str]) -> None:
        if self._is_there(key):
            self._writer.give(Operation(Kind.END, key, {"state": state.value, "tags": _shown(tags)}))

    def arrange(self, view: RunsView) -> None:
        if self._has_own_experiment:  # another one is shown as others want it
            self._writer.give(Operation(Kind.ARRANGE, None, {"view": view.as_json()}))

    def describe(self, text: str) -> None:
        if self._is_there(STUDY):
            self._writer.give(Operation(Kind.DESCRIBE, STUDY, {"text": shown(text)}))

    def _is_there(self, key: RunKey) -> bool:
        """Whether there may be a run to write to: a person may have deleted it, and the study goes on without."""
        return key not in self._lost

    def flush(self) -> bool:
        return self._writer.flush()

    def settle(self) -> bool:
        return self._writer.settle()

    def close(self) -> None:
        self._writer.close()

    def is_foreign(self, name: str) -> bool:
        """Whether there is a registered model of that name that this study did not make."""
        return self._writer.ask(lambda: self._is_foreign(name))

    def register(self, key: RunKey, folder: Path, name: str, tags: dict[str, str], description: str) -> str:
        """Logs a model on a run, and makes it the champion of a registered model.

        Args:
            folder: of the model, called as no other content is; it may be gone afterwards.
            name: of the registered model, which is made where there is none.
            tags: of the version; a champion of the same run and folder is not made again.
            description: of the version.

        Returns:
            The version.

        Raises:
            TrackingError: if the store refuses it.
        """
        return self._writer.ask(lambda: self._register(key, folder, name, tags, description))

    def states(self) -> dict[RunKey, RunState]:
        return self._writer.ask(self._states)

    def _states(self) -> dict[RunKey, RunState]:
        self._connect()
        stored = self._stored()
        self._runs.update({key: run_id for key, (run_id, _) in stored.items()})  # of other workers too
        return {key: RunState(status) for key, (_, status) in stored.items()}

    @contextmanager
    def watching_system(self) -> Iterator[None]:
        try:
            metrics = self._writer.ask(self._system_metrics)
        except AwayError:
            logger.warning("the machine's own metrics are not logged in this session: their run cannot be read now")
            metrics = None
        if metrics is None:  # or a person has deleted the run
            yield
            return
        with metrics.watching():
            yield

    def _system_metrics(self) -> SystemMetrics | None:
        run_id = self._runs.get(STUDY)
        return SystemMetrics(self, run_id, self._client.tracking_uri) if run_id is not None else None


def _points(metrics: dict[str, float], step: int) -> list[Point]:
    now_ms = int(time.time() * 1000)
    return [Point(name, float(value), now_ms, step) for name, value in metrics.items()]


def _shown(tags: dict[str, str]) -> dict[str, str]:
    return {name: shown(value) for name, value in tags.items()}
