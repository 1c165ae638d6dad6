"""Jobs of SLURM: pre-emption, the queue, launchers that come and go; with submitit's local executor in its place."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.cluster.clusters import cluster_of
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, StoreError
from sweeper.housekeeping.stop import stop
from sweeper.paths import Home, StudyPaths
from sweeper.search.views import view
from tests.cluster.test_contract import end_of, waiting
from tests.conftest import SHORT
from tests.launch.test_launch import has_event, start, wait_for

pytest.importorskip("submitit", reason="submitit is missing: pip install -e '.[dev]'")

from sweeper.cluster.slurm import SlurmCluster
from sweeper.cluster.slurm_record import Record

LOCAL = ["cluster=slurm", "cluster.executor=local", "cluster.gpus_per_node=0"]


def controller(home: Home, index: int = 0) -> psutil.Process:
    """The process that stands for a job."""
    return psutil.Process(int(Record.read(home.study("demo")).jobs[str(index)]))


def events(home: Home, kind: str) -> list[dict[str, Any]]:
    lines = home.study("demo").events.read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_a_study_outlives_pre_emption_and_its_launcher(home: Home, few_tickets: Path, known_formulas: None) -> None:
    launch = ["launch", *SHORT, f"data.path={few_tickets}", "search.trials=4", "train.examples=96",
              "checkpoint.every_s=600", *LOCAL]  # fmt: skip
    first = start(home, *launch)
    wait_for(has_event(home, '"event": "tick"'))
    job = controller(home)
    job.children()[0].send_signal(signal.SIGTERM)  # as SLURM does before it takes a node away
    first.kill()
    first.communicate()
    assert job.is_running()  # it needs no launcher
    second = start(home, *launch)
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, out + err
    seen = view(home, "demo")
    assert [trial.number for trial in seen.trials] == list(range(4))
    assert all(trial.state in ("COMPLETE", "PRUNED") for trial in seen.trials)
    assert len(events(home, "loading")) == 2  # the same job, in its next allocation
    [suspended] = events(home, "suspended")
    assert suspended["numbers"]
    again = [event for event in events(home, "trial_started") if event["number"] in suspended["numbers"]]
    assert any(event["step"] > 0 for event in again)  # from the checkpoints that it made in its grace


@pytest.fixture
def cluster(home: Home, composed: Callable[..., Config]) -> SlurmCluster:
    made = cluster_of(prepared(home), composed("study=demo", *LOCAL), time.time())
    assert isinstance(made, SlurmCluster)
    return made


def prepared(home: Home) -> StudyPaths:
    paths = home.study("demo")
    paths.create()
    paths.workers.mkdir(exist_ok=True)
    return paths


def test_a_job_that_is_to_stop_does_not_queue_again(
    cluster: SlurmCluster, home: Home, composed: Callable[..., Config]
) -> None:
    paths = home.study("demo")
    check.save(composed("study=demo", *LOCAL), paths)
    with waiting(cluster, paths) as worker:
        later = cluster_of(paths, composed("study=demo", *LOCAL), time.time())
        assert later.start(1).where == worker.where  # which it finds in the study's folder
        assert stop(home, "demo", 1, print).words.startswith(f"asked {worker.where} of demo to stop")
        assert end_of(worker) == 1
    assert later.start(1).where == "a job that is not submitted yet"


def test_a_worker_that_is_not_submitted_yet_needs_no_job(cluster: SlurmCluster, home: Home) -> None:
    worker = cluster.start(0)
    worker.stop()
    assert worker.poll() == -signal.SIGTERM
    assert Record.read(home.study("demo")).jobs == {}


def test_where_there_is_no_slurm(home: Home, composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        ConfigError, match=r"cluster\.executor: slurm needs its commands .* cluster\.executor=local to try"
    ):
        cluster_of(prepared(home), composed("study=demo", "cluster=slurm"), time.time())


SLURM = {
    "sbatch": '[ -z "$REFUSED" ] || {{ echo "$REFUSED" >&2; exit 1; }}\ncp "$1" {folder}/script\n'
    "echo Submitted batch job 17",
    "srun": "true",
    "scancel": 'echo "$*" >> {folder}/asked',
    "sacct": "cat {folder}/states",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands, which note what they are asked, and say what stands in the folder."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in SLURM.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script.format(folder=folder)}\n", encoding="utf-8")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def states(folder: Path, **found: str) -> None:
    lines = ["JobID|State|NodeList", *(f"17_{name[1:]}|{state}|node" for name, state in found.items())]
    (folder / "states").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_what_slurm_is_asked(
    slurm: Path, home: Home, composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.cluster.slurm.LOOK_S", 0.0)
    monkeypatch.setattr("sweeper.cluster.slurm.STOPPING_LOOK_S", 0.0)
    monkeypatch.setattr("sweeper.cluster.slurm.SILENT_S", 0.2)
    paths = prepared(home)
    config = composed("study=demo", "cluster=slurm", "cluster.workers=2", "cluster.partition=gpu",
                      "cluster.account=lab", "cluster.mem_gib=1.5", "cluster.time_min=60", "cluster.signal_s=90",
                      "cluster.gpus_per_node=2", "cluster.cpus_per_task=3", "+cluster.extra.qos=low")  # fmt: skip
    cluster = cluster_of(paths, config, time.time())
    workers = [cluster.start(index) for index in range(2)]
    states(slurm, _0="PENDING", _1="RUNNING")
    assert [worker.poll() for worker in workers] == [None, None]
    assert [worker.where for worker in workers] == ["job 17_0", "job 17_1"]
    script = (slurm / "script").read_text(encoding="utf-8")
    for line in ("array=0-1%2", "partition=gpu", "account=lab", "mem=1536M", "time=60", "gpus-per-node=2", "qos=low",
                 "cpus-per-task=3", "signal=USR2@90", "job-name=sweeper-demo"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert Record.read(paths) == Record("slurm", {"0": "17_0", "1": "17_1"}, [])
    workers[0].stop()
    assert (slurm / "asked").read_text(encoding="utf-8").splitlines() == [
        "--state=PENDING 17_0",
        "--signal=TERM 17_0",
    ]
    states(slurm, _0="CANCELLED by 1", _1="NODE_FAIL")
    wait_for(lambda: all(worker.poll() is not None for worker in workers))
    assert [worker.poll() for worker in workers] == [-signal.SIGKILL, -signal.SIGKILL]
    assert "job 17_1 ended without a result (NODE_FAIL)" in paths.events.read_text(encoding="utf-8")
    assert Record.read(paths).stopped == ["17_0"]


def test_what_slurm_refuses_is_said(
    slurm: Path, home: Home, composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSED", "sbatch: error: invalid partition specified: gpuu")
    worker = cluster_of(prepared(home), composed("study=demo", "cluster=slurm"), time.time()).start(0)
    with pytest.raises(ConfigError, match=r"sbatch must take the workers' jobs, but it says: .*invalid partition"):
        worker.poll()


def test_a_record_that_cannot_be_read(home: Home, composed: Callable[..., Config]) -> None:
    prepared(home).jobs.write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match=r"must say which jobs .*`squeue --me` lists those that run"):
        cluster_of(home.study("demo"), composed("study=demo", *LOCAL), time.time())
