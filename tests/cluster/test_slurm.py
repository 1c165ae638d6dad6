"""Jobs of SLURM: pre-emption, the queue, launchers that come and go; with submitit's local executor in its place."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sweeper.cluster.clusters import cluster_of
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, StoreError
from sweeper.launch.question import INTERRUPTED
from sweeper.paths import Home
from sweeper.search.running import noted
from sweeper.search.views import view
from tests.cluster.test_contract import end_of, waiting
from tests.conftest import SHORT
from tests.launch.test_launch import has_event, start, sweeper, wait_for

pytest.importorskip("submitit", reason="submitit is missing: pip install -e '.[dev]'")

from sweeper.cluster.slurm import SlurmCluster
from sweeper.cluster.slurm_record import Record

LOCAL = ["cluster=slurm", "cluster.executor=local", "cluster.gpus_per_node=0"]


def controller(home: Home, index: int = 0) -> psutil.Process:
    """The process that stands for a job."""
    return psutil.Process(int(Record.read(home.study("demo")).jobs[str(index)]))


def count(home: Home, event: str) -> int:
    return home.study("demo").events.read_text(encoding="utf-8").count(f'"event": "{event}"')


def test_a_study_outlives_pre_emption_and_its_launcher(home: Home, few_tickets: Path, known_formulas: None) -> None:
    launch = ["launch", *SHORT, f"data.path={few_tickets}", "search.trials=4", "train.examples=96",
              "checkpoint.every_s=600", *LOCAL]  # fmt: skip
    first = start(home, *launch)
    wait_for(has_event(home, '"event": "tick"'))
    job = controller(home)
    job.send_signal(signal.SIGUSR2)  # as SLURM does before it takes a node away
    job_of_worker(home, job)
    wait_for(lambda: count(home, "suspended") == 1)
    wait_for(lambda: count(home, "loading") == 2)  # the same job, in its next allocation
    first.kill()
    first.communicate()
    assert job.is_running()  # it needs no launcher
    second = start(home, *launch)
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, out + err
    assert f"worker 0 is job {job.pid}, which an earlier launch has submitted" in out
    seen = view(home, "demo")
    assert [trial.number for trial in seen.trials] == list(range(4))
    assert all(trial.state in ("COMPLETE", "PRUNED") for trial in seen.trials)
    events = home.study("demo").events.read_text(encoding="utf-8")
    assert '"event": "resumed"' in events or "from_step" in events
    assert not job.is_running()


def job_of_worker(home: Home, job: psutil.Process) -> None:
    note = noted(home.study("demo").worker_holder(0))
    assert note is not None
    assert job.pid in [parent.pid for parent in psutil.Process(note.holder.pid).parents()]
