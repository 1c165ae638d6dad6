"""What a launcher needs of every kind of cluster, with the worker's real process; none of them loads a model."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from filelock import FileLock

from sweeper import outcome
from sweeper.cluster.cluster import Cluster, Worker
from sweeper.cluster.clusters import cluster_of
from sweeper.config.schema import Config
from sweeper.paths import Home, StudyPaths

KINDS = {
    "local": ["cluster=local"],
    "ray": ["cluster=ray"],
    "slurm": ["cluster=slurm", "cluster.executor=local", "cluster.gpus_per_node=0"],
}


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest, home: Home, composed: Callable[..., Config]) -> Iterator[Cluster]:
    kind: str = request.param
    options = [*KINDS[kind], "cluster.workers=2"]
    if kind == "ray":
        options.append(f"cluster.address={request.getfixturevalue('ray_nodes').address}")
    if kind == "slurm":
        pytest.importorskip("submitit", reason="submitit is missing: pip install -e '.[dev]'")
    paths = home.study("demo")
    paths.create()
    paths.workers.mkdir(exist_ok=True)
    made = cluster_of(paths, composed("study=demo", *options), time.time())
    yield made
    made.close()


def end_of(worker: Worker, timeout_s: float = 60) -> int:
    deadline = time.monotonic() + timeout_s
    while (code := worker.poll()) is None:
        assert time.monotonic() < deadline, f"{worker.where} has not ended"
        time.sleep(0.05)
    return code


@contextmanager
def waiting(cluster: Cluster, paths: StudyPaths) -> Iterator[Worker]:
    """A worker that has begun, and waits for an earlier one of its index to leave."""
    with FileLock(paths.worker_lock(1)):
        worker = cluster.start(1)
        deadline = time.monotonic() + 60
        log = paths.worker_log(1)
        while not (log.is_file() and "worker 1 of demo begins: process" in log.read_text(encoding="utf-8")):
            assert worker.poll() is None
            assert time.monotonic() < deadline, "the worker has not begun"
            time.sleep(0.05)
        yield worker


def process_of(paths: StudyPaths) -> psutil.Process:
    """That of the worker which began last."""
    log = paths.worker_log(1).read_text(encoding="utf-8")
    return psutil.Process(int(re.findall(r"begins: process (\d+)", log)[-1]))


def test_a_worker_ends_with_its_code_its_log_and_its_outcome(cluster: Cluster, home: Home) -> None:
    paths = home.study("demo")
    assert cluster.count == 2
    with waiting(cluster, paths) as worker:
        assert (worker.index, worker.poll()) == (1, None)
        worker.stop()
        worker.stop()  # no harm in that
        assert end_of(worker) == 1
        assert worker.poll() == 1  # however often one asks
    found = outcome.read(paths, 1)
    assert found is not None
    assert (found.status, found.kind) == (outcome.ERROR, "HeldError")  # it did not get its turn
    assert "worker 1 of demo ends: error" in paths.worker_log(1).read_text(encoding="utf-8")


def test_a_worker_that_died_is_started_again_and_one_that_is_killed_leaves_nothing(
    cluster: Cluster, home: Home
) -> None:
    paths = home.study("demo")
    with waiting(cluster, paths) as worker:
        process_of(paths).send_signal(signal.SIGKILL)
        assert end_of(worker) == -signal.SIGKILL
    paths.worker_log(1).unlink()
    with waiting(cluster, paths) as again:
        assert again is not worker
        process = process_of(paths)
        again.kill()
        assert end_of(again) == -signal.SIGKILL
        psutil.wait_procs([process], timeout=10)
        assert not process.is_running()
    assert outcome.read(paths, 1) is None
