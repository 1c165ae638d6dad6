"""`sweeper launch`: checks, starts the worker, shows its progress, and stops it cleanly.

One launcher per study, by a file lock that the operating system drops with the process. The worker is
a process group of its own, so that Ctrl-C reaches the launcher alone: the first lets the worker
checkpoint and end, the second kills it at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from sweeper.config import check, combinations
from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.errors import ERRORS, ConfigError, StoreError, WorkerError
from sweeper.events import EventReader
from sweeper.launch.progress import Progress, show
from sweeper.paths import Home, StudyPaths, write_atomically
from sweeper.search.views import StudyView, configurations, is_at_total, study_names, view

INTERRUPTED = 130  # the shell's code for a process that Ctrl-C ended
_POLL_S = 0.2


def launch(config: Config, announce: Callable[[str], None] = print) -> int:
    """Runs a study towards its total, new or interrupted.

    Args:
        announce: takes a line for the person, where there is nothing to do.

    Returns:
        0 when the study is finished, 130 when it was interrupted and can be resumed.

    Raises:
        SweeperError: what is wrong, found before a model is loaded where it can be.
    """
    home = Home(Path(config.store.home).expanduser().absolute())
    home.create()
    config = check.with_absolute_paths(config)
    paths = home.study(config.study.name)
    paths.create()
    lock = FileLock(paths.launcher_lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"one launcher per study, but {config.study.name!r} is held by {_holder(paths)}; wait for it, or stop it"
        ) from None
    with lock:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_atomically(paths.holder, json.dumps(holder))
        before = _existing(home, paths)
        data = rows.of(config, None if before is None else paths.splits)
        if before is not None:
            _refuse_other_study(config, paths, before, data.sha256)
        if before is None:
            rows.keep_splits(data, config.data, paths.splits)
        check.save(config, paths)
        if before is not None and is_finished(before, config):
            announce(
                f"{paths.name} is complete already: {before.summary()}. search.trials=N goes on to N, "
                "study.name=NEW starts another"
            )
            return 0
        if config.search.warm_start is not None:
            view(home, config.search.warm_start)  # a name that is not known is said now
        if before is None:
            for line in combinations.notes(config):
                announce(f"note: {line}")
        return Supervisor(paths, config, before).run()


def is_finished(study: StudyView, config: Config) -> bool:
    """Whether a study has its total and its winner has been scored on the test split."""
    best = study.best
    is_tested = best is None or study.attributes.get("test", {}).get("trial") == best.number
    is_whole = is_at_total(study.trials, config.search.trials, configurations(config))
    return is_whole and is_tested and "baseline" in study.attributes


def _existing(home: Home, paths: StudyPaths) -> StudyView | None:
    if not home.optuna_file.is_file() or paths.name not in study_names(home):
        return None
    seen = view(home, paths.name)
    # A launch that ended before it measured anything binds nobody to its settings.
    return seen if seen.trials or "baseline" in seen.attributes else None


def _holder(paths: StudyPaths) -> str:
    try:
        holder = json.loads(paths.holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another process"
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def _refuse_other_study(config: Config, paths: StudyPaths, before: StudyView, data_sha256: str) -> None:
    differences = check.differences(check.load(paths), config)
    known = before.attributes.get("data_sha256", data_sha256)
    if known != data_sha256:
        differences.append(f"data: was {known[:12]}…, is {data_sha256[:12]}… (sha256 of texts and labels)")
    if differences:
        differences.append(f"the study {config.study.name!r} exists with other settings; study.name=NEW starts another")
        raise ConfigError(differences)


class Supervisor:
    """Starts one worker, follows it, and passes interruptions on."""

    def __init__(self, paths: StudyPaths, config: Config, before: StudyView | None = None) -> None:
        """`before` is the study as earlier sessions left it."""
        self._before = before
        self._paths = paths
        self._config = config
        self._interruptions = 0
        self._worker: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        self._paths.outcome.unlink(missing_ok=True)
        reader = EventReader(self._paths.events)
        progress = Progress(self._config.study.name, self._config.objective.metric, self._config.search.trials)
        if self._before is not None:
            self._recall(progress, self._before)
        previous = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self._paths.worker_log.open("ab") as log:
                worker = self._worker = subprocess.Popen(
                    # -P: a datasets.py in the folder that one launches from must not be imported as the library.
                    [sys.executable, "-P", "-m", "sweeper.worker", self._paths.name],
                    stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=worker_environment(self._paths.home),
                )
                with show(progress) as screen:
                    if self._interruptions:  # while the worker was starting
                        worker.terminate()
                    while worker.poll() is None:
                        screen.update(reader.new())
                        time.sleep(_POLL_S)
                    screen.update(reader.new())
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._conclude(worker)

    def _recall(self, progress: Progress, before: StudyView) -> None:
        """Shows what earlier sessions found."""
        if "baseline" in before.attributes:
            progress.baseline = before.attributes["baseline"][progress.metric]
        if before.best is not None and before.best.value is not None:
            progress.best = (before.best.value, before.best.number)

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        self._interruptions += 1
        if self._interruptions == 1:
            print("\nstopping: the trials in flight are checkpointed; Ctrl-C again ends at once", file=sys.stderr)
            if self._worker is not None:
                self._worker.terminate()
        elif self._worker is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(self._worker.pid, signal.SIGKILL)

    def _conclude(self, worker: subprocess.Popen[bytes]) -> int:
        outcome = self._outcome(worker.pid)
        if outcome is None:
            if self._interruptions:
                return INTERRUPTED
            raise WorkerError(
                f"the worker must end with an outcome, but it ended with code {worker.returncode} and none; "
                f"the last lines of {self._paths.worker_log}:\n{self._log_tail()}\n"
                "Its trials resume when the same command is run again"
            )
        if outcome["status"] == "error":
            if outcome["kind"] in ERRORS:
                kind = ERRORS[outcome["kind"]]
                error = kind.__new__(kind)  # the message is whole already
                Exception.__init__(error, outcome["message"])
                raise error
            raise WorkerError(
                f"a defect stopped the worker: {outcome['kind']}: {outcome['message']}\n"
                f"The trace is in {self._paths.worker_log}. Its trials resume when the same command is run again"
            )
        return INTERRUPTED if outcome["status"] == "stopped" else 0

    def _outcome(self, pid: int) -> dict[str, Any] | None:
        """What the worker `pid` left; None where there is nothing, or an earlier worker's."""
        try:
            outcome: dict[str, Any] = json.loads(self._paths.outcome.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return outcome if outcome["pid"] == pid else None

    def _log_tail(self) -> str:
        lines = self._paths.worker_log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-15:])


def worker_environment(home: Home) -> dict[str, str]:
    """The environment of a worker: the launcher's, with the store's place and telemetry off."""
    return {
        **os.environ,
        "SWEEPER_HOME": str(home.root),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
