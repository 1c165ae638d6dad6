"""Workers on a Ray cluster: an actor for each, which Ray places on a node with a GPU that is free.

Ray places, and says when a node is lost; restarting is the launcher's, as everywhere. A worker that cannot be placed
yet waits. Where the nodes do not see this store (`ray_host.py`), what a worker writes is appended to the files here.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

# Before Ray is imported, which reads them once: nobody is told of a cluster's use, and what Ray has to say of its
# processes would be printed on standard output, which a script may read.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # which it asks for in a warning

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from sweeper import __version__
from sweeper.cluster.cluster import Cluster, Worker
from sweeper.cluster.ray_host import Host, News, Seat
from sweeper.config.cluster import RayClusterSection
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, WorkerError, unknown
from sweeper.paths import StudyPaths, write_atomically
from sweeper.tracking.place import VARIABLE, Place

LOST = -signal.SIGKILL  # what is said of a worker that was lost with its node: it was killed
PENDING_S = 10.0  # how long a worker may wait for a node before that is said
KNOCK_S = 10.0  # how long the address of a cluster may take to answer
PLACES = 5  # that may be lost, one after the other, before a worker has begun there
KILL_S = 10.0  # how long an actor may take to say that its worker was killed, before it is killed itself
_OBJECTS_BYTES = 100 * 1024**2  # of a cluster of this machine: Ray's store for objects, of which there are none
_TYPE = "accelerator_type:"  # what Ray calls the resource of a node with that type


class RayWorker(Worker):
    """One actor, wherever it is, and the worker that it holds."""

    def __init__(self, cluster: RayCluster, index: int, options: Sequence[str]) -> None:
        self.index, self._cluster, self._options = index, cluster, options
        self._code: int | None = None
        self._kill_at_s: float | None = None
        self._places = 0
        self._place()

    def _place(self) -> None:
        """Asks Ray for an actor; that it has a node is known when it answers."""
        self._places += 1
        self.where = "an actor that waits for a node"
        self._host = self._cluster.actor(self.index)
        self._is_begun = False
        self._answer = self._host.look.remote(self._cluster.token)
        self._placed_s: float | None = time.monotonic()  # None: it has answered, or it was said that it has not

    def poll(self) -> int | None:
        if self._code is None:
            with self._cluster.reached():
                self._look()
        return self._code

    def _look(self) -> None:
        """Takes what the actor has answered, and asks it for the next."""
        ready, _ = ray.wait([self._answer], timeout=0)
        if self._kill_at_s is not None and time.monotonic() > self._kill_at_s:
            self._end(-signal.SIGKILL)
        elif ready:
            self._take()
        elif self._placed_s is not None and time.monotonic() - self._placed_s > PENDING_S:
            self._placed_s = None
            self._cluster.say(f"worker {self.index} waits for a node with {self._cluster.asked}; {self._cluster.has()}")

    def _take(self) -> None:
        try:
            answer = ray.get(self._answer)
        except ActorUnavailableError:  # for now: it is asked again, and then it is there or dead
            self._answer = self._host.news.remote() if self._is_begun else self._host.look.remote(self._cluster.token)
            return
        except RayActorError as error:
            if not self._is_begun and self._places < PLACES and not error.actor_init_failed:
                self._place()  # the node went before there was a worker
            else:
                self._cluster.say(f"worker {self.index} was lost with {self.where}: {_last_line(error)}")
                self._end(LOST)
            return
        except RayTaskError as error:
            raise WorkerError(
                f"worker {self.index} must run on its node, but {self.where} says: {_last_line(error)}. The node needs "
                f"sweeper {__version__} with what it depends on"
            ) from error
        if isinstance(answer, Seat):
            self.where, self._placed_s = f"an actor on {answer.host}", None
            self._answer = self._host.begin.remote(self._options, *self._cluster.brought(answer))
            return
        self._is_begun = True
        if isinstance(answer, News):
            self._cluster.pass_on(self.index, answer)
            if answer.code is not None:
                self._end(answer.code)
                return
        self._answer = self._host.news.remote()

    def _end(self, code: int) -> None:
        self._code = code
        with suppress(RayError):
            ray.kill(self._host)  # it holds a GPU

    def stop(self) -> None:
        if self._is_begun:
            self._host.stop.remote()
        elif self._code is None:  # there is nothing to checkpoint
            self._end(-signal.SIGTERM)

    def kill(self) -> None:
        if self._is_begun and self._code is None:
            self._host.kill.remote()
            self._kill_at_s = time.monotonic() + KILL_S
        elif self._code is None:
            self._end(-signal.SIGKILL)


class RayCluster(Cluster):
    """A Ray cluster that is there, or one of this machine.

    Raises:
        ConfigError: if it cannot be reached, or has not what is asked for.
    """

    def __init__(self, paths: StudyPaths, config: Config) -> None:
        assert isinstance(config.cluster, RayClusterSection)
        self._paths, self._config, self._section = paths, config, config.cluster
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        paths.workers.mkdir(exist_ok=True)
        self.token = uuid.uuid4().hex
        write_atomically(paths.token, self.token)
        if self._section.node_home is not None and self._section.node_home == str(paths.home.root):
            raise ConfigError(
                f"cluster.node_home: must be another folder than SWEEPER_HOME, or null where nodes share that, but got "
                f"{self._section.node_home!r} for both"
            )
        self._connect()
        try:
            self._asked, self.count = self._needs()
        except ConfigError:
            self.close()
            raise

    def _connect(self) -> None:
        section, local = self._section, {}
        if section.address is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="sweeper-ray-", ignore_cleanup_errors=True)
            local = {
                "include_dashboard": False,
                "object_store_memory": _OBJECTS_BYTES,
                "_temp_dir": self._temporary.name,
            }
        try:
            _knock(section.address)
            with _own_signals():
                ray.init(address=section.address or "local", log_to_driver=False, logging_level="CRITICAL", **local)
        except (OSError, ValueError, RuntimeError) as error:
            where = f"no Ray cluster answers at cluster.address={section.address!r}"
            raise ConfigError(
                f"cluster.address: {where if section.address else 'Ray does not start here'}: {_first_line(error)}. "
                "`ray status` there says what runs; cluster.address=null starts one of this machine alone"
            ) from error

    def _needs(self) -> tuple[dict[str, float], int]:
        """What each worker takes, and how many there are to be."""
        section, has = self._section, ray.cluster_resources()
        types = {name.removeprefix(_TYPE) for name in has if name.startswith(_TYPE)}
        device = self._config.engine.device
        if section.accelerator is not None and section.accelerator not in types:
            known = unknown("type of GPU", section.accelerator, types)
            raise ConfigError(f"cluster.accelerator: {known} in this cluster")
        if section.accelerator is not None and device == "cpu":
            raise ConfigError("cluster.accelerator: must be null where engine.device is cpu")
        if device.startswith("cuda:"):
            raise ConfigError(f"engine.device: must be auto, cuda or cpu where Ray says which GPU, but got {device!r}")
        is_gpu = device == "cuda" or (device == "auto" and has.get("GPU", 0) >= 1)
        asked = {"CPU": section.cpus, **({"GPU": 1.0} if is_gpu else {}), **section.resources}
        if section.accelerator is not None:
            asked[f"{_TYPE}{section.accelerator}"] = 0.001  # as Ray itself asks for one
        count = 1 if self._config.search.deterministic else section.workers
        return asked, count or max(1, int(sum(_gpus(node, section.accelerator) for node in _nodes()) if is_gpu else 1))

    @property
    def asked(self) -> str:
        """What each worker takes, in words."""
        return _in_words({name: count for name, count in self._asked.items() if not name.startswith(_TYPE)}) + (
            f" of type {self._section.accelerator}" if self._section.accelerator else ""
        )

    def has(self) -> str:
        """What the nodes of the cluster have, in words."""
        wanted = [name for name in self._asked if not name.startswith(_TYPE)]
        nodes = [_in_words({name: node.get(name, 0) for name in wanted}) for node in _nodes()]
        return f"its nodes have, in use or not: {' | '.join(nodes) or 'nothing, for there are none'}"

    def actor(self, index: int) -> Any:
        """A new actor, which has a node when there is one."""
        home = self._section.node_home or str(self._paths.home.root)
        others = {name: count for name, count in self._asked.items() if name not in ("CPU", "GPU")}
        options = {
            "num_cpus": self._asked["CPU"],
            "num_gpus": self._asked.get("GPU", 0),
            "resources": others,
            "max_restarts": 0,
            "max_concurrency": 4,  # it is asked to stop while news are waited for
        }
        return ray.remote(Host).options(**options).remote(home, self._paths.name, index)

    def start(self, index: int, options: Sequence[str] = ()) -> RayWorker:
        with self.reached():
            return RayWorker(self, index, options)

    def brought(self, seat: Seat) -> tuple[dict[str, str], dict[str, bytes] | None]:
        """What a worker gets there: variables, and the study's files where the store is not shared.

        Raises:
            ConfigError: if it could not work there.
        """
        if seat.version != __version__:
            raise ConfigError(
                f"cluster: nodes must have the launcher's sweeper, {__version__}, but {seat.host} has {seat.version}"
            )
        place = Place.of(self._config)
        added = {VARIABLE: place.uri} if place.uri is not None else {}
        if seat.is_shared:
            return added, None
        if missing := self.missing(place):
            raise ConfigError(
                [
                    f"cluster: {seat.host} does not see {self._paths.home.root}, so that a worker there needs all of "
                    "store.optuna, tracking.uri and store.mirror, or SWEEPER_HOME on a filesystem that the nodes share",
                    *missing,
                ]
            )
        paths = self._paths
        files = [paths.config, paths.model, paths.splits, paths.data, paths.tracking, *paths.code.rglob("*.py")]
        return added, {str(file.relative_to(paths.root)): file.read_bytes() for file in files if file.is_file()}

    def missing(self, place: Place) -> list[str]:
        """What a worker that has another store than the launcher would lack."""
        store = self._config.store
        needed = {
            "store.optuna: a database of PostgreSQL, for the trials": store.optuna,
            "store.mirror: a URL that all nodes reach, for checkpoints and adapters": store.mirror,
            "tracking.uri: the address of an MLflow server": place.uri,
        }
        return [f"{key}; it is null" for key, value in needed.items() if value is None]

    def pass_on(self, index: int, news: News) -> None:
        """Appends what a worker wrote elsewhere to the files here."""
        paths = self._paths
        if news.log:
            paths.logs.mkdir(exist_ok=True)
        for file, text in ((paths.worker_log(index), news.log), (paths.events, news.events)):
            if text:
                with file.open("ab") as opened:
                    opened.write(text)
        if news.outcome is not None:
            write_atomically(paths.outcome(index), news.outcome)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Maps what Ray raises when there is no cluster any more."""
        try:
            yield
        except (RayError, ConnectionError) as error:
            raise WorkerError(
                f"the Ray cluster (cluster.address={self._section.address!r}) must stay, but does not answer: "
                f"{_first_line(error)}. The trials resume when the same command is run again"
            ) from error

    def close(self) -> None:
        ray.shutdown()
        if self._temporary is not None:
            self._temporary.cleanup()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps this process's answers to signals, which Ray replaces, and keeps a terminal's end from what it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which processes inherit
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _knock(address: str | None) -> None:
    """Raises OSError where nothing listens, for which Ray would wait minutes; names that Ray finds by itself pass."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _gpus(node: dict[str, float], accelerator: str | None) -> float:
    return node.get("GPU", 0) if accelerator is None or f"{_TYPE}{accelerator}" in node else 0


def _in_words(resources: dict[str, float]) -> str:
    return ", ".join(f"{name} {count:g}" for name, count in resources.items())


def _first_line(error: Exception) -> str:
    return _lines(error)[0]


def _last_line(error: Exception) -> str:
    """What is at the end of Ray's account, where the cause is."""
    return _lines(error)[-1]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
