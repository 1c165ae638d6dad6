"""What a study has in each of its stores, read as anybody could read it, and whether they agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import optuna
import psutil
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import RunInfo
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import OperationalError

from sweeper.config import check
from sweeper.paths import StudyPaths
from sweeper.search.views import StudyView, TrialView, kept_adapters
from sweeper.tracking.mlflow_runs import KIND_TAG, NUMBER_TAG
from sweeper.trial import RunKind
from sweeper.worker.recorder import ADAPTER, RUN_STATES

T = TypeVar("T")
RECOVERY_S = 60  # how long a database may take to answer again
ENDED = ("FINISHED", "KILLED", "FAILED")  # what a run of MLflow that has ended may be
COUNT_LEASES = "SELECT COUNT(*) FROM sweeper_leases"
SESSIONS = "SELECT id, booked_us, heartbeat_us, is_ended FROM sweeper_sessions WHERE study = :study ORDER BY id"
BOOKINGS = (
    "SELECT session, activity, us FROM sweeper_bookings WHERE session IN "
    "(SELECT id FROM sweeper_sessions WHERE study = :study)"
)


def patiently(read: Callable[[], T]) -> T:
    """Reads from a database that may have been killed, and first recovers."""
    deadline = time.monotonic() + RECOVERY_S
    while True:
        try:
            return read()
        except (OperationalError, StorageInternalError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@dataclass(frozen=True)
class Stores:
    """Where one study is.

    Attributes:
        optuna_url: of its trials and its ledger.
        mlflow_uri: of its runs.
    """

    paths: StudyPaths
    optuna_url: str
    mlflow_uri: str

    def trials(self) -> list[FrozenTrial]:
        """All that Optuna has."""
        return patiently(self._trials)

    def _trials(self) -> list[FrozenTrial]:
        if not self._has_table("studies"):
            return []
        with self._storage() as storage:
            if self.paths.name not in optuna.get_all_study_names(storage):
                return []
            return list(optuna.load_study(study_name=self.paths.name, storage=storage).trials)

    def told(self) -> dict[int, FrozenTrial]:
        """The trials that have ended, with all that was told of them, which must not change any more."""
        return {trial.number: trial for trial in self.trials() if trial.state.is_finished()}

    def lost_s(self) -> float:
        """Seconds that are booked as lost."""
        return patiently(self._lost_s)

    def _lost_s(self) -> float:
        if not self._has_table("sweeper_bookings"):
            return 0.0
        return sum(us for _, activity, us in self._rows(BOOKINGS, study=self.paths.name) if activity == "lost") / 1e6

    def verify(self, total: int, before: dict[int, FrozenTrial]) -> dict[str, Any]:
        """Checks all that must hold of a study that has come to its end; returns its figures.

        Args:
            total: the trials that it was to have.
            before: those that had ended at an earlier look.
        """
        told = self.told()
        assert sorted(told) == list(range(total)), f"the trials must be 0 to {total - 1}, but are {sorted(told)}"
        changed = [number for number, trial in before.items() if told[number] != trial]
        assert not changed, f"what was told must stay, but trials {changed} have changed"
        states = Counter(trial.state for trial in told.values())
        assert not states[TrialState.FAIL], f"a kill is no fault of a trial, but {states}"
        views = [TrialView.of(told[number], is_minimized=False) for number in sorted(told)]
        self._verify_events(total)
        self._verify_runs(views)
        lost_s = self._verify_ledger()
        self._verify_files(views)
        self._verify_commands(views)
        assert not self.processes(), f"nothing of a finished study may run, but {self.processes()} do"
        return {"study": self.paths.name, "trials": total, "states": _counts(views), "lost_s": round(lost_s, 3)}

    def processes(self) -> list[int]:
        """Those that work on this store."""
        found = []
        for process in psutil.process_iter():
            try:
                is_own = process.environ().get("SWEEPER_HOME") == str(self.paths.home.root)
            except psutil.Error:
                continue
            if is_own and process.pid != os.getpid():
                found.append(process.pid)
        return found

    def _verify_events(self, total: int) -> None:
        lines = [json.loads(line) for line in self.paths.events.read_text(encoding="utf-8").splitlines()]
        ended = Counter(line["number"] for line in lines if line["event"] == "trial_ended")
        assert set(ended) <= set(range(total)), ended
        assert max(ended.values()) == 1, f"a trial must end once, but {ended}"

    def _verify_runs(self, trials: list[TrialView]) -> None:
        """MLflow has one run of each trial, in the trial's state, with each of its evaluations once."""
        client = MlflowClient(tracking_uri=self.mlflow_uri)
        experiment = client.get_experiment_by_name(self.paths.name)
        found = client.search_runs([experiment.experiment_id], max_results=10_000)
        unended = [run.data.tags for run in found if run.info.status not in ENDED]
        assert not unended, f"every run must have ended, but {unended}"
        runs = [run for run in found if run.data.tags.get(KIND_TAG) == RunKind.TRIAL]
        numbers = sorted(int(run.data.tags[NUMBER_TAG]) for run in runs)
        assert numbers == [trial.number for trial in trials], f"one run for each trial, but {numbers}"
        config = check.load(self.paths)
        kept = set(self._seen(trials).attributes["adapters"])
        for run in runs:
            trial = trials[int(run.data.tags[NUMBER_TAG])]
            where = f"trial {trial.number}"
            assert run.info.status == RUN_STATES[trial.state].value, (where, run.info.status, trial.state)
            points = client.get_metric_history(run.info.run_id, config.objective.metric_name)
            steps = sorted({(point.step, point.value) for point in points})
            own = sorted((int(point["examples"]), point[config.objective.metric_name]) for point in trial.curve)
            assert steps == own, (where, steps, own)
            has_adapter = self._has_adapter(client, run.info)
            assert has_adapter == (trial.number in kept), (where, has_adapter, kept)

    def _has_adapter(self, client: MlflowClient, run: RunInfo) -> bool:
        place = run.artifact_uri.removeprefix("mlflow-artifacts:/")
        if self.mlflow_uri.startswith("sqlite:"):  # no server is there to ask
            return (self.paths.home.artifacts / place / ADAPTER).is_dir()
        return bool(client.list_artifacts(run.run_id, ADAPTER))

    def _verify_ledger(self) -> float:
        """Every second is booked once: what lies between two heartbeats of the dead too, as lost."""
        booked: Counter[int] = Counter()
        for session, activity, us in self._rows(BOOKINGS, study=self.paths.name):
            assert us >= 0, (session, activity, us)
            booked[session] += us
        for number, booked_us, heartbeat_us, is_ended in self._rows(SESSIONS, study=self.paths.name):
            assert is_ended, f"session {number} must have ended"
            assert booked[number] == booked_us == heartbeat_us, (number, booked[number], booked_us, heartbeat_us)
        assert self._rows(COUNT_LEASES) == [(0,)], "no lease may be left"
        return self.lost_s()

    def _verify_files(self, trials: list[TrialView]) -> None:
        root, seen = self.paths.root, self._seen(trials)
        left = [str(file) for file in root.glob("trials/*/*checkpoint*")] + [
            *map(str, root.glob("side/*/*checkpoint*"))
        ]
        assert not left, f"no checkpoint may be left, but {left}"
        kept = sorted(int(folder.parent.name) for folder in root.glob("trials/*/adapter"))
        due = sorted(kept_adapters(seen, self.paths, check.load(self.paths)))
        assert kept == due == sorted(seen.attributes["adapters"]), (kept, due, seen.attributes["adapters"])

    def _verify_commands(self, trials: list[TrialView]) -> None:
        """What a person is shown says the same."""
        status, cost = (self._json(name) for name in ("status", "cost"))
        assert status["counts"] == _counts(trials), status["counts"]
        assert [trial["state"] for trial in status["trials"]] == [trial.state for trial in trials]
        assert [trial["value"] for trial in status["trials"]] == [trial.value for trial in trials]
        sums = [sum(one["seconds"] for one in cost[part].values()) for part in ("labels", "activities")] + [
            sum(one["seconds"] for one in cost["sessions"])
        ]
        assert all(abs(one - cost["seconds"]) < 1e-3 for one in sums), (cost["seconds"], sums)

    def _json(self, command: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "sweeper", command, self.paths.name, "--json"],
            env={**os.environ, "SWEEPER_HOME": str(self.paths.home.root)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _seen(self, trials: list[TrialView]) -> StudyView:
        with self._storage() as storage:
            attributes = optuna.load_study(study_name=self.paths.name, storage=storage).user_attrs
        return StudyView(self.paths.name, trials, attributes)

    @contextmanager
    def _storage(self) -> Iterator[optuna.storages.RDBStorage]:
        storage = optuna.storages.RDBStorage(self.optuna_url, skip_compatibility_check=True, skip_table_creation=True)
        try:
            yield storage
        finally:
            storage.engine.dispose()

    def _has_table(self, name: str) -> bool:
        engine = sqlalchemy.create_engine(self.optuna_url)
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        if file is not None and not Path(file).is_file():
            return False  # looking would make it
        try:
            return sqlalchemy.inspect(engine).has_table(name)
        finally:
            engine.dispose()

    def _rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        engine = sqlalchemy.create_engine(self.optuna_url)
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(sqlalchemy.text(query), values)]
        finally:
            engine.dispose()


def _counts(trials: list[TrialView]) -> dict[str, int]:
    return dict(sorted(Counter(trial.state for trial in trials).items()))
