from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from sweeper.cluster import devices, local
from sweeper.cluster.cluster import EARLY, command, environment
from sweeper.cluster.devices import Device, visible
from sweeper.cluster.local import LocalCluster, LocalWorker
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, OutOfRoomError
from sweeper.memory.nvml import Card, Holder, NvmlUnavailable
from sweeper.paths import Home

CARDS = [Card(index, f"GPU-{index}{'ab' * 4}-1", "NVIDIA L4", 24 * 2**30) for index in range(2)]


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cards", lambda: CARDS)
    monkeypatch.setattr(devices, "_can_torch", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (None, [CARDS[0].uuid, CARDS[1].uuid]),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        (CARDS[1].uuid[:8], [CARDS[1].uuid[:8]]),
        ("", []),
        ("0,-1,1", ["0"]),  # CUDA reads it up to there
    ],
)
def test_what_cuda_may_see_is_what_workers_share(
    monkeypatch: pytest.MonkeyPatch, listed: str | None, names: list[str]
) -> None:
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert [device.name for device in visible("auto")] == names
    assert all(device.card is not None for device in visible("auto"))
    assert visible("cpu") == visible("cuda:1") == []  # one that is named is the worker's own to find


@pytest.mark.usefixtures("two_cards")
def test_without_nvml_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> list[Card]:
        raise NvmlUnavailable("the driver is not loaded")

    monkeypatch.setattr(devices, "cards", unavailable)
    assert visible("auto") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible("auto") == [Device("0", None), Device("1", None)]


def test_a_torch_without_cuda_has_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(devices, "cards", lambda: CARDS)
    assert len(visible("auto")) == (2 if torch.version.cuda else 0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The environments of the workers that were started; each ends at once."""
    found: list[dict[str, Any]] = []

    def popen(command: list[str], **options: Any) -> Any:
        found.append({"command": command, **options["env"]})
        return subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, start_new_session=True)

    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=popen, PIPE=-1, STDOUT=-2))
    return found


Compose = Callable[..., Config]


def ended(worker: LocalWorker) -> LocalWorker:
    while worker.poll() is None:
        time.sleep(0.01)
    return worker


@pytest.mark.usefixtures("two_cards")
def test_a_worker_for_each_gpu(home: Home, composed_once: Compose, started: list[dict[str, Any]]) -> None:
    paths = home.study("demo")
    paths.create()
    cluster = LocalCluster(paths, composed_once("study=demo"), 5.0)
    assert cluster.count == 2
    for index in range(2):
        ended(cluster.start(index))
    ended(cluster.start(1))
    assert float(started.pop()["SWEEPER_LAUNCHED_S"]) > time.time() - 60  # what was before the first's end is booked
    assert [one["CUDA_VISIBLE_DEVICES"] for one in started] == [card.uuid for card in CARDS]
    assert [one["command"][-3:] for one in started] == [["--index", str(index), "demo"] for index in range(2)]
    assert {one["SWEEPER_LAUNCHED_S"] for one in started} == {"5.0"}
    for index in (103, 104):  # that joined, in a row
        ended(cluster.start(index))
    assert {one["CUDA_VISIBLE_DEVICES"] for one in started[-2:]} == {card.uuid for card in CARDS}
    assert LocalCluster(paths, composed_once("study=demo", "cluster.workers=1"), 5.0).count == 1
    with pytest.raises(ConfigError, match=r"cluster\.workers: a device has one worker, but got 3 for 2"):
        LocalCluster(paths, composed_once("study=demo", "cluster.workers=3"), 5.0)


def test_workers_on_the_cpu_share_its_cores(
    home: Home, composed_once: Compose, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    paths = home.study("demo")
    paths.create()
    for workers, threads in ((1, None), (3, "2")):
        config = composed_once("study=demo", "engine.device=cpu", f"cluster.workers={workers}")
        ended(LocalCluster(paths, config, 5.0).start(0))
        assert started[-1].get("OMP_NUM_THREADS") == threads


@pytest.mark.usefixtures("two_cards", "started")
def test_a_device_is_not_used_again_before_its_memory_is_free(
    home: Home, composed_once: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders: list[list[Holder]] = []
    monkeypatch.setattr(
        devices, "NvmlDevice", lambda *_: SimpleNamespace(holders=lambda: holders.pop() if holders else [])
    )
    monkeypatch.setattr(local, "FREED_S", 0.2)
    paths = home.study("demo")
    paths.create()
    cluster = LocalCluster(paths, composed_once("study=demo"), 5.0)
    worker = ended(cluster.start(0))
    held = [Holder(worker.pid, "python", 3 * 2**30), Holder(1, "another", 2**30)]
    holders.append(held)
    ended(cluster.start(0))  # it was free at the second look
    assert holders == []
    again = ended(cluster.start(0))
    holders += [[Holder(again.pid, "python", 3 * 2**30)]] * 20
    with pytest.raises(OutOfRoomError, match=rf"process {again.pid} \(3\.0 GiB\) still hold some of NVIDIA L4"):
        cluster.start(0)


def test_more_than_one_worker_has_no_fixed_order(composed_once: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.workers: must be 1 or null where search\.deterministic is true"):
        composed_once("study=demo", "search.deterministic=true", "cluster.workers=2")


@pytest.fixture
def early(home: Home, composed_once: Compose) -> Iterator[tuple[LocalCluster, psutil.Process]]:
    """A cluster whose worker is started, and waits to be told."""
    paths = home.study("demo")
    paths.create()
    cluster = LocalCluster(paths, composed_once("study=demo", "engine.device=cpu"), 5.0)
    before = psutil.Process().children()
    cluster.prepare()
    (process,) = set(psutil.Process().children()) - set(before)
    yield cluster, process
    cluster.close()


def begun(home: Home) -> list[int]:
    log = home.study("demo").worker_log(0)
    if not log.exists():
        return []
    return [int(pid) for pid in re.findall(r"begins: process (\d+)", log.read_text(encoding="utf-8"))]


def test_a_worker_that_was_started_early_begins_when_it_is_told(
    home: Home, early: tuple[LocalCluster, psutil.Process]
) -> None:
    cluster, process = early
    worker = cluster.start(0)
    assert worker.pid == process.pid
    ended(worker)
    assert begun(home) == [process.pid]
    again = ended(cluster.start(0))  # as any that died
    assert begun(home) == [process.pid, again.pid]


def test_it_is_told_when_the_launch_began_and_when_its_work_does(
    home: Home, composed_once: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys; print('told', sys.stdin.readline())"
    monkeypatch.setattr(local, "command", lambda *_: [sys.executable, "-c", script])
    paths = home.study("demo")
    paths.create()
    cluster = LocalCluster(paths, composed_once("study=demo", "engine.device=cpu"), 5.0)
    cluster.prepare()
    cluster.launched_s = 7.0  # a person has thought about it
    before_s = time.time()
    ended(cluster.start(0))
    _, launched_s, began_s = paths.worker_log(0).read_text(encoding="utf-8").split()
    assert float(launched_s) == 7.0
    assert before_s <= float(began_s) <= time.time()


@pytest.mark.usefixtures("two_cards")
def test_each_card_has_one_that_is_started_early(
    home: Home, composed_once: Compose, started: list[dict[str, Any]]
) -> None:
    paths = home.study("demo")
    paths.create()
    cluster = LocalCluster(paths, composed_once("study=demo"), 5.0)
    cluster.prepare()
    cluster.close()
    assert [one["CUDA_VISIBLE_DEVICES"] for one in started] == [card.uuid for card in CARDS]
    assert all(EARLY in one["command"] for one in started)
    config = composed_once("study=demo", "search.deterministic=true", "engine.slots=2")
    assert LocalCluster(paths, config, 5.0).count == 1


def test_what_is_said_before_it_begins_has_no_secret(
    home: Home, composed_once: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries keep the stream that they find when they are imported."""
    monkeypatch.setenv("HF_TOKEN", "hf_a-token-that-nobody-may-see")
    script = """
import sys, sweeper.worker.__main__ as worker
def said():
    from transformers.utils import logging
    logging.get_logger("transformers.hub").warning("with hf_a-token-that-nobody-may-see")
sys.argv, worker._import = ["worker", "--early", "demo"], said
worker.main()
"""
    paths = home.study("demo")
    paths.create()
    paths.logs.mkdir()
    subprocess.run([sys.executable, "-c", script], env=environment(paths, 5.0), stdin=subprocess.DEVNULL, check=True)
    log = paths.worker_log(0).read_text(encoding="utf-8")
    assert "with " in log
    assert "nobody-may-see" not in log


def test_a_worker_that_was_started_early_and_is_dead_is_started_again(
    home: Home, early: tuple[LocalCluster, psutil.Process]
) -> None:
    cluster, process = early
    process.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    worker = ended(cluster.start(0))
    assert begun(home) == [worker.pid]
    assert worker.pid != process.pid


def test_one_that_is_asked_to_stop_while_it_is_being_told_says_how_it_ended(
    home: Home, early: tuple[LocalCluster, psutil.Process]
) -> None:
    cluster, process = early
    log = home.study("demo").worker_log(0)
    while signal.SIGTERM not in _caught(process):  # from then on it is asked, and not killed
        assert process.is_running(), log.read_text(encoding="utf-8")
        time.sleep(0.01)
    worker = cluster.start(0)
    worker.stop()
    assert ended(worker).poll() == 1  # there is no study; a signal would be below zero
    assert home.study("demo").outcome(0).is_file()


def _caught(process: psutil.Process) -> set[int]:
    mask = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line)
    bits = int(mask.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def test_one_that_nobody_needs_ends_without_having_begun(
    home: Home, early: tuple[LocalCluster, psutil.Process]
) -> None:
    cluster, process = early
    cluster.close()
    assert not process.is_running()
    assert not home.study("demo").worker_log(0).exists()


def test_one_whose_launcher_died_ends_too(home: Home) -> None:
    paths = home.study("demo")
    paths.create()
    paths.logs.mkdir()
    alone = subprocess.run(command("demo", 0, (EARLY,)), env=environment(paths, 5.0), stdin=subprocess.DEVNULL)
    assert alone.returncode == 0
    assert not paths.outcome(0).exists()
    assert begun(home) == []
