"""Workers as an array job of SLURM, through submitit.

The jobs do not need the launcher: it submits them, shows what they write into the folder that all of them see, and may
go. Which jobs they are stands in `jobs.json`, so that a launcher that comes later follows those that still run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from shlex import quote
from typing import Any

import psutil
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from sweeper.cluster.cluster import DETACHED, Cluster, Worker
from sweeper.cluster.slurm_job import WorkerJob
from sweeper.cluster.slurm_record import Record
from sweeper.config import check
from sweeper.config.cluster import SlurmClusterSection
from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.paths import StudyPaths

LOST = -signal.SIGKILL  # what is said of a worker whose job is gone without a word: it was killed
LOOK_S, STOPPING_LOOK_S = 30.0, 5.0  # how often SLURM is asked; and while jobs are to stop
SILENT_S = 20.0  # how long the result of a job that is gone may take to be seen, or a job to be queued again
_MOST_TIMEOUTS = 1_000_000  # allocations: the study's budget ends it, not their number
# It would log to standard output, which a script may read.
logging.getLogger("submitit").handlers = [logging.NullHandler()]
_LOCAL = "submitit.local._local"  # the process that stands for a job where there is no SLURM


class SlurmWorker(Worker):
    """One job, and those that it becomes as it is queued again."""

    def __init__(self, cluster: SlurmCluster, index: int, job: submitit.Job[int] | None) -> None:
        self.index, self._cluster, self.job = index, cluster, job
        self._code: int | None = None
        self._silent_s: float | None = None  # since when the job has been gone without a result
        self._is_killed = False

    @property
    def where(self) -> str:  # type: ignore[override]
        return f"job {self.job.job_id}" if self.job is not None else "a job that is not submitted yet"

    def poll(self) -> int | None:
        if self._code is None:
            self._cluster.submit()
            assert self.job is not None
            self._code = self._result(self.job)
        return self._code

    def _result(self, job: submitit.Job[int]) -> int | None:
        is_ending = isinstance(job, submitit.LocalJob) and not self._cluster.is_gone(job)
        if job.paths.result_pickle.exists() and not is_ending:
            try:
                return int(job.result())
            except UncompletedJobError:
                self._cluster.say(f"{self.where} ended with an error: {job.paths.stdout} has what it said")
                return 1
        if not self._cluster.is_gone(job):
            self._silent_s = None
        elif self._is_killed:
            return LOST
        elif self._silent_s is None:
            self._silent_s = time.monotonic()
        elif time.monotonic() - self._silent_s > SILENT_S:
            self._cluster.say(f"{self.where} ended without a result ({self._cluster.state(job)}): {job.paths.stdout}")
            return LOST
        return None

    def stop(self) -> None:
        if self.job is not None:
            self._cluster.stop(self.job)
        elif self._code is None:
            self._code = -signal.SIGTERM
            self._cluster.forget(self)

    def kill(self) -> None:
        self.stop()
        if self.job is not None:
            self._is_killed = True
            self._cluster.end(self.job)


class SlurmCluster(Cluster):
    """The queue that jobs are submitted to.

    Raises:
        ConfigError: if there is none here.
        StoreError: if it cannot be read which jobs there are.
    """

    def __init__(self, paths: StudyPaths, config: Config) -> None:
        assert isinstance(config.cluster, SlurmClusterSection)
        self._paths, self._section = paths, config.cluster
        paths.workers.mkdir(exist_ok=True)
        self.count = 1 if config.search.deterministic else config.cluster.workers or 1
        self._executor = _executor(paths, config.cluster)
        self._record = Record.read(paths)
        self._waiting: dict[SlurmWorker, Sequence[str]] = {}  # for the next array, with the options of each
        self._looked_s = -LOOK_S
        self._is_stopping = False

    def start(self, index: int, options: Sequence[str] = ()) -> SlurmWorker:
        job = self.running(index)
        if job is not None:
            self.say(f"worker {index} is job {job.job_id}, which an earlier launch has submitted")
            return SlurmWorker(self, index, job)
        worker = SlurmWorker(self, index, None)
        self._waiting[worker] = options
        return worker

    def running(self, index: int) -> submitit.Job[int] | None:
        """The job that a worker still is, submitted by whichever launcher."""
        record = self._record
        job_id = record.jobs.get(str(index))
        if job_id is None or job_id in record.stopped or record.executor != self._section.executor:
            return None
        kind = submitit.SlurmJob if record.executor == "slurm" else submitit.LocalJob
        job: submitit.Job[int] = kind(self._paths.submissions, job_id)
        if job.paths.result_pickle.exists() or self.is_gone(job):
            return None
        return job

    def submit(self) -> None:
        """Submits the workers that were started since, as one array.

        Raises:
            ConfigError: if they are refused.
        """
        if not self._waiting:
            return
        home, grace_s = str(self._paths.home.root), self._section.grace_s
        works = [
            WorkerJob(home, self._paths.name, worker.index, (DETACHED, *options), grace_s)
            for worker, options in self._waiting.items()
        ]
        try:
            with _ignored(signal.SIGINT, signal.SIGHUP):  # of the launcher's terminal, where a job is a process here
                jobs = self._executor.submit_array(works)
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"cluster: sbatch must take the workers' jobs, but it says: {error}") from error
        for worker, job in zip(self._waiting, jobs, strict=True):
            worker.job = job
            self._record.jobs[str(worker.index)] = job.job_id
        self._record.executor = self._section.executor
        self._record.write(self._paths)
        self.say(f"submitted {', '.join(worker.where for worker in self._waiting)}")
        self._waiting.clear()
        self._looked_s = time.monotonic()  # what was submitted just now is not known to sacct

    def forget(self, worker: SlurmWorker) -> None:
        """Does not submit a worker."""
        self._waiting.pop(worker, None)

    def is_gone(self, job: submitit.Job[int]) -> bool:
        """Whether SLURM has nothing more to run of a job."""
        if isinstance(job, submitit.LocalJob):
            return job.state != "RUNNING" and not _is_local(int(job.job_id))  # a child, or a process that was found
        now_s = time.monotonic()
        if now_s - self._looked_s > (STOPPING_LOOK_S if self._is_stopping else LOOK_S):
            self._looked_s = now_s
            job.watcher.update()  # of all jobs at once
        # What was taken away is queued again, by its own job or by SLURM, or it is gone.
        return bool(job.watcher.is_done(job.job_id, mode="cache")) or self.state(job) == "PREEMPTED"

    def state(self, job: submitit.Job[int]) -> str:
        """As SLURM has it, when it was last asked."""
        return "no process" if isinstance(job, submitit.LocalJob) else job.watcher.get_state(job.job_id, mode="cache")

    def stop(self, job: submitit.Job[int]) -> None:
        """Asks a job to checkpoint and to end; one that waits in the queue leaves it."""
        if job.job_id not in self._record.stopped:
            self._record.stopped.append(job.job_id)
            self._record.write(self._paths)
        self._is_stopping = True
        if isinstance(job, submitit.LocalJob):
            _signal_local(job, signal.SIGTERM)
        else:
            _scancel("--state=PENDING", job.job_id)
            _scancel("--signal=TERM", job.job_id)

    def end(self, job: submitit.Job[int]) -> None:
        """Ends a job at once, with all its processes."""
        if isinstance(job, submitit.LocalJob):
            _signal_local(job, signal.SIGKILL)
        else:
            _scancel("--signal=KILL", job.job_id)
            _scancel(job.job_id)

    def close(self) -> None:
        """The jobs have their own ends."""


def _executor(paths: StudyPaths, section: SlurmClusterSection) -> Any:
    """What submits jobs, with what they ask for.

    Raises:
        ConfigError: if there is no SLURM here.
    """
    paths.submissions.mkdir(parents=True, exist_ok=True)
    shared = {"max_num_timeout": _MOST_TIMEOUTS, "python": f"{quote(sys.executable)} -P"}
    if section.executor == "local":
        local = submitit.LocalExecutor(paths.submissions, **shared)
        local.update_parameters(
            timeout_min=section.time_min,
            signal_delay_s=section.signal_s,
            gpus_per_node=section.gpus_per_node,
            stderr_to_stdout=True,
        )
        return local
    try:
        slurm = submitit.SlurmExecutor(paths.submissions, **shared)
    except RuntimeError as error:
        raise ConfigError(
            "cluster.executor: slurm needs its commands (sbatch, srun, sacct, scancel), but they are not here; launch "
            "from a login node, or cluster.executor=local to try it out"
        ) from error
    asked = {
        "job_name": f"sweeper-{paths.name}",
        "partition": section.partition,
        "account": section.account,
        "gpus_per_node": section.gpus_per_node or None,
        "cpus_per_task": section.cpus_per_task,
        "mem": None if section.mem_gib is None else f"{section.mem_gib * 1024:.0f}M",
        "time": section.time_min,
        "signal_delay_s": section.signal_s,
        "additional_parameters": section.extra or None,
        "stderr_to_stdout": True,
    }
    slurm.update_parameters(**{name: value for name, value in asked.items() if value is not None})
    return slurm


def _scancel(*arguments: str) -> None:
    """Of a job that is gone, or is not in that state, it complains, and nothing is to be done."""
    subprocess.run(["scancel", *arguments], capture_output=True, check=False)


def _is_local(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return _LOCAL in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _signal_local(job: submitit.Job[int], number: signal.Signals) -> None:
    """Signals the process that stands for a job; a kill takes all that it has started along."""
    pid = int(job.job_id)
    if not _is_local(pid):
        return
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process] if number == signal.SIGKILL else [process]:
            os.kill(one.pid, number)


@contextmanager
def _ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Processes that start meanwhile do not hear of these."""
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def stop_jobs(paths: StudyPaths) -> list[str]:
    """Stops the jobs of a study whose launcher is gone; returns which there were."""
    cluster = SlurmCluster(paths, check.load(paths))
    found = [job for index in Record.read(paths).jobs if (job := cluster.running(int(index))) is not None]
    for job in found:
        cluster.stop(job)
    return [f"job {job.job_id}" for job in found]
