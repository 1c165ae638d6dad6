"""What a job of SLURM runs: one worker, and the job queued again where it must leave before the worker is done.

submitit calls it on the node. SLURM sends SIGTERM or SIGUSR2 (submitit's, or a site's SIGUSR1) before it takes the node
away: for another job, or at the time limit. The worker then checkpoints, and the job goes back into the queue, unless
the launcher has noted that it was to stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission

from sweeper import outcome
from sweeper.cluster.cluster import command, environment
from sweeper.cluster.slurm_record import Record
from sweeper.paths import Home, StudyPaths

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_POLL_S = 0.2
_NO_USER_SIGNALS = {signal.SIGUSR1, signal.SIGUSR2}


class WorkerJob:
    """One worker's job; what submitit keeps of it has no secret.

    Args:
        home: the store, on the filesystem that the nodes share.
        name: of the study.
        options: go to the worker's command.
        grace_s: how long the worker may take to checkpoint.
    """

    def __init__(self, home: str, name: str, index: int, options: Sequence[str], grace_s: float) -> None:
        self.home, self.name, self.index, self.options, self.grace_s = home, name, index, tuple(options), grace_s
        self.is_leaving = False

    def __call__(self) -> int:
        """Runs the worker to its end, and returns its exit code; in a job that is queued again it does not return."""
        paths = Home(Path(self.home)).study(self.name)
        before = {number: signal.signal(number, self._warn) for number in WARNINGS}
        for folder in (paths.logs, paths.workers):
            folder.mkdir(exist_ok=True)
        with paths.worker_log(self.index).open("ab") as log:  # what the worker says before it writes there itself
            # SLURM may signal every process of the job, and these two would end the worker without a checkpoint.
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _NO_USER_SIGNALS)
            process = subprocess.Popen(
                command(self.name, self.index, self.options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(paths, time.time()),  # the device costs from now on
            )
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        try:
            code = self._follow(process)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, signal.SIGKILL)
        if self.is_leaving and self._has_more_to_do(paths, process.pid) and not self._is_to_stop():
            requeue: Any = before[signal.SIGUSR2]  # submitit's own, which ends this process
            requeue(signal.SIGUSR2, None)
        return code

    def checkpoint(self) -> DelayedSubmission:
        """What runs in the next allocation; for submitit."""
        return DelayedSubmission(WorkerJob(self.home, self.name, self.index, self.options, self.grace_s))

    def _warn(self, _number: int, _frame: FrameType | None) -> None:
        self.is_leaving = True

    def _follow(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for the worker's end, and asks for it when this job must leave."""
        kill_at_s: float | None = None
        while (code := process.poll()) is None:
            if self.is_leaving and kill_at_s is None:
                kill_at_s = time.monotonic() + self.grace_s
                process.terminate()
            if kill_at_s is not None and time.monotonic() > kill_at_s:
                return -signal.SIGKILL
            time.sleep(_POLL_S)
        return code

    def _has_more_to_do(self, paths: StudyPaths, pid: int) -> bool:
        """Whether the worker was stopped or killed, and did not come to an end by itself."""
        found = outcome.read(paths, self.index)
        return found is None or found.pid != pid or found.status == outcome.STOPPED

    def _is_to_stop(self) -> bool:
        record = Record.read(Home(Path(self.home)).study(self.name))
        return JobEnvironment().job_id in record.stopped
