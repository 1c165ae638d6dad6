"""A Ray cluster: where workers are placed, nodes that are lost, and nodes that do not see the store."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy
from filelock import FileLock

from sweeper import outcome
from sweeper.cluster.cluster import Worker
from sweeper.cluster.clusters import cluster_of
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, WorkerError
from sweeper.paths import Home
from sweeper.search.running import noted
from sweeper.search.views import view
from sweeper.tracking.place import VARIABLE
from tests.cluster.conftest import OBJECTS_BYTES
from tests.cluster.test_contract import end_of
from tests.conftest import SHORT
from tests.launch.test_launch import has_event, start, wait_for

pytest.importorskip("ray", reason="Ray is missing: pip install -e '.[dev]'")

from sweeper.cluster import ray_cluster, ray_host
from sweeper.cluster.ray_cluster import RayCluster

Opened = Callable[..., RayCluster]


@pytest.fixture
def opened(home: Home, ray_nodes: Any, composed: Callable[..., Config]) -> Iterator[Opened]:
    """Connects a study's launcher to the cluster of the tests."""
    made: list[RayCluster] = []

    def connect(*overrides: str) -> RayCluster:
        paths = home.study("demo")
        paths.create()
        config = composed("study=demo", "cluster=ray", f"cluster.address={ray_nodes.address}", *overrides)
        cluster = cluster_of(paths, config, time.time())
        assert isinstance(cluster, RayCluster)
        made.append(cluster)
        return cluster

    yield connect
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="module")
def h100(ray_nodes: Any) -> Iterator[Any]:
    """A node that says it has two GPUs of a type."""
    node = ray_nodes.add_node(
        num_cpus=2, num_gpus=2, resources={"accelerator_type:H100": 1}, object_store_memory=OBJECTS_BYTES
    )
    yield node
    ray_nodes.remove_node(node)


def notes(home: Home) -> list[str]:
    lines = home.study("demo").events.read_text(encoding="utf-8").splitlines()
    return [event["message"] for event in map(json.loads, lines) if event["event"] == "note"]


def raylet_of(pid: int) -> int:
    """The process of the node that a worker's process is on."""
    return next(one.pid for one in psutil.Process(pid).parents() if one.name() == "raylet")


def test_a_study_outlives_a_node(
    home: Home, ray_nodes: Any, few_tickets: Path, known_formulas: None, migrated: Path
) -> None:
    shutil.copy(migrated, home.mlflow_file)
    boxes = [ray_nodes.add_node(num_cpus=1, resources={"box": 1}, object_store_memory=OBJECTS_BYTES) for _ in range(2)]
    paths = home.study("demo")
    # More than one worker ends before Ray has noticed that the other's node is gone, or that need not start again.
    launcher = start(home, "launch", *SHORT, f"data.path={few_tickets}", "search.trials=10", "train.examples=96",
                     "search.lease_s=5", "checkpoint.every_s=0.5", "cluster=ray", "cluster.workers=2",
                     f"cluster.address={ray_nodes.address}", "+cluster.resources.box=1")  # fmt: skip
    wait_for(has_event(home, '"event": "tick"'))
    events = [json.loads(line) for line in paths.events.read_text(encoding="utf-8").splitlines()]
    index = next(event["worker"] for event in events if event["event"] == "tick")
    note = noted(paths.worker_holder(index))
    assert note is not None
    lost = raylet_of(note.holder.pid)
    [node] = [box for box in boxes if box.all_processes["raylet"][0].process.pid == lost]
    ray_nodes.remove_node(node, allow_graceful=False)
    out, err = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, out + err
    assert f"worker {index} was lost with an actor on" in out
    assert "is started again" in out
    seen = view(home, "demo")
    assert [trial.number for trial in seen.trials] == list(range(10))
    assert all(trial.state in ("COMPLETE", "PRUNED") for trial in seen.trials)
    with sqlalchemy.create_engine(home.optuna_url).connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM sweeper_leases")) == 0
    assert not psutil.pid_exists(note.holder.pid)
    [other] = [box for box in boxes if box is not node]
    ray_nodes.remove_node(other)


def test_workers_are_placed_by_the_type_of_their_gpu(opened: Opened, h100: Any) -> None:
    cluster = opened("cluster.accelerator=H100")
    assert cluster.count == 2
    assert cluster.asked == "CPU 1, GPU 1 of type H100"
    seen: set[str] = set()
    workers = [cluster.start(index) for index in range(2)]
    for worker in workers:
        wait_for(lambda worker=worker: worker.poll() is not None or "actor on" in worker.where)
    for index, worker in enumerate(workers):
        pid = wait_for_process(cluster, index, worker)
        seen.add(psutil.Process(pid).environ()["CUDA_VISIBLE_DEVICES"])
        assert raylet_of(pid) == h100.all_processes["raylet"][0].process.pid
        worker.kill()
        end_of(worker)
    assert seen == {"0", "1"}


def wait_for_process(cluster: RayCluster, index: int, worker: Worker) -> int:
    log = cluster._paths.worker_log(index)

    def begun() -> list[str]:
        worker.poll()
        return re.findall(r"begins: process (\d+)", log.read_text(encoding="utf-8")) if log.is_file() else []

    wait_for(lambda: bool(begun()))
    return int(begun()[-1])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["cluster.accelerator=H10"], "unknown type of GPU `H10`; did you mean `H100`? Known: H100 in this cluster"),
        (["cluster.accelerator=H100", "engine.device=cpu"], "cluster.accelerator: must be null where engine.device is"),
        (
            ["engine.device=cuda:1"],
            "engine.device: must be auto, cuda or cpu where Ray says which GPU, but got 'cuda:1'",
        ),
    ],
)
def test_what_the_cluster_has_not_is_refused(opened: Opened, h100: Any, overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(*overrides)
    assert expected in str(caught.value)


def test_an_address_where_nothing_answers(opened: Opened) -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at cluster.address='127.0.0.1:9'"):
        opened("cluster.address=127.0.0.1:9")


def test_a_worker_that_cannot_be_placed_waits(opened: Opened, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "PENDING_S", 0.3)
    worker = opened("+cluster.resources.tape=2", "engine.device=cpu").start(0)
    wait_for(lambda: worker.poll() is not None or home.study("demo").events.is_file())
    [note] = notes(home)  # with all the nodes that other tests have added
    assert note.startswith("worker 0 waits for a node with CPU 1, tape 2; its nodes have, in use or not: CPU 2, tape 0")
    worker.stop()
    assert worker.poll() is not None


def test_a_node_that_does_not_see_the_store_needs_one_for_all(opened: Opened, tmp_path: Path) -> None:
    worker = opened(f"cluster.node_home={tmp_path / 'node'}", "tracking.uri=http://127.0.0.1:9").start(0)
    with pytest.raises(ConfigError) as caught:
        end_of(worker)
    message = str(caught.value)
    assert "does not see" in message
    assert "store.mirror: a URL" in message
    assert "store.optuna: a database" in message
    assert "tracking.uri: the address" not in message  # which is there


def test_what_is_written_on_a_node_comes_to_the_launcher(
    opened: Opened, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, elsewhere = home.study("demo"), Home(tmp_path / "node").study("demo")
    cluster = opened(f"cluster.node_home={elsewhere.home.root}")
    (paths.root / "code").mkdir()
    (paths.root / "code" / "mine.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(RayCluster, "missing", lambda *_: [])
    elsewhere.workers.mkdir(parents=True)
    with FileLock(elsewhere.worker_lock(0)):  # so that the worker waits, and loads nothing
        worker = cluster.start(0)
        wait_for_process(cluster, 0, worker)
        worker.stop()
        assert end_of(worker) == 1
    assert (elsewhere.root / "code" / "mine.py").read_text(encoding="utf-8") == "x = 1\n"
    assert "worker 0 of demo ends: error" in paths.worker_log(0).read_text(encoding="utf-8")
    assert paths.worker_log(0).read_bytes() == elsewhere.worker_log(0).read_bytes()
    assert paths.outcome(0).read_bytes() == elsewhere.outcome(0).read_bytes()
    found = outcome.read(paths, 0)
    assert found is not None
    assert found.kind == "HeldError"


@pytest.mark.parametrize(
    ("launchers", "nodes", "used"),
    [
        ("http://runs:1", "http://other:2", "http://runs:1"),
        ("http://runs:1", "http://me:word@runs:1", "http://me:word@runs:1"),
        ("http://runs:1", None, "http://runs:1"),
        (None, "http://other:2", None),
    ],
)
def test_the_tracking_server_is_the_launchers(
    home: Home, monkeypatch: pytest.MonkeyPatch, launchers: str | None, nodes: str | None, used: str | None
) -> None:
    seen: list[str | None] = []

    class Process:
        pid = 1

        def __init__(self, *_: Any, env: dict[str, str], **__: Any) -> None:
            seen.append(env.get(VARIABLE))

    home.study("demo").create()
    monkeypatch.delenv(VARIABLE, raising=False)
    if nodes is not None:
        monkeypatch.setenv(VARIABLE, nodes)
    monkeypatch.setattr(ray_host.subprocess, "Popen", Process)
    ray_host.Host(str(home.root), "demo", 0).begin((), {VARIABLE: launchers} if launchers else {}, None)
    assert seen == [used]


def test_a_node_with_another_sweeper_is_refused(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = opened().start(0)
    monkeypatch.setattr(ray_cluster, "__version__", "0.0.1")
    with pytest.raises(ConfigError, match=r"nodes must have the launcher's sweeper, 0\.0\.1, but \S+ has \d"):
        end_of(worker)


def test_a_cluster_that_goes_away_is_named(opened: Opened) -> None:
    cluster = opened()
    with (
        pytest.raises(WorkerError, match=r"the Ray cluster .* must stay, but does not answer: gone"),
        cluster.reached(),
    ):
        raise ConnectionError("gone")


def test_a_tail_follows_a_file_that_is_put_aside(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("old\n", encoding="utf-8")
    tail = ray_host.Tail(file)
    assert tail.new() == b""
    with file.open("a", encoding="utf-8") as opened_file:
        opened_file.write("one\ntw")
    assert tail.new(is_whole_lines=True) == b"one\n"
    with file.open("a", encoding="utf-8") as opened_file:
        opened_file.write("o\n")
    os.replace(file, tmp_path / "log.1")
    file.write_text("three\n", encoding="utf-8")
    assert tail.new(is_whole_lines=True) == b"two\n"
    assert [tail.new(), tail.new()] == [b"", b"three\n"]
    tail.close()
