"""Workers on this machine, one for each device, each a process group of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence

from sweeper.cluster.cluster import EARLY, Cluster, Worker, command, environment
from sweeper.cluster.devices import Device, visible
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, OutOfRoomError
from sweeper.paths import StudyPaths

FREED_S = 30.0  # how long the memory of a process that has ended may take to be free
_LOOK_S = 0.5


class LocalWorker(Worker):
    """A process that is a child of this one."""

    def __init__(self, index: int, process: subprocess.Popen[bytes]) -> None:
        self.index, self._process = index, process
        self.where = f"process {process.pid}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is not None and self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def stop(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.killpg(self._process.pid, signal.SIGKILL)


class LocalCluster(Cluster):
    """The devices of this machine.

    Attributes:
        launched_s: when the launcher began, in seconds since 1970.

    Raises:
        ConfigError: if there are fewer devices than workers.
    """

    def __init__(self, paths: StudyPaths, config: Config, launched_s: float) -> None:
        self._paths, self.launched_s = paths, launched_s
        self._devices = visible(config.engine.device)
        wanted = config.cluster.workers
        if self._devices and wanted is not None and wanted > len(self._devices):
            raise ConfigError(
                f"cluster.workers: a device has one worker, but got {wanted} for {len(self._devices)} "
                f"({', '.join(map(str, self._devices))}); more trials at a time are engine.slots"
            )
        self.count = 1 if config.search.deterministic else wanted or max(1, len(self._devices))
        self._before: dict[int, int] = {}  # the process group of each worker that was started
        self._early: dict[int, subprocess.Popen[bytes]] = {}

    def prepare(self) -> None:
        """Starts the processes of the workers, which import their libraries and wait for `start`.

        That takes as long as it takes to look at a new study, so both are done at a time.
        """
        for index in range(self.count):
            self._early[index] = self._process(index, self.launched_s, (EARLY,))

    def start(self, index: int, options: Sequence[str] = ()) -> LocalWorker:
        launched_s = time.time() if index in self._before else self.launched_s  # what was before is booked
        self._clear(index, self._device(index))
        process = None if options else self._begun(index, launched_s)
        if process is None:
            process = self._process(index, launched_s, options)
        self._before[index] = process.pid
        return LocalWorker(index, process)

    def _begun(self, index: int, launched_s: float) -> subprocess.Popen[bytes] | None:
        """The process that waits to be this worker, which begins now; None where there is none."""
        process = self._early.pop(index, None)
        if process is None:
            return None
        assert process.stdin is not None
        try:
            os.write(process.stdin.fileno(), f"{launched_s} {time.time()}\n".encode())
        except BrokenPipeError:  # it has been killed meanwhile
            process.communicate()
            return None
        return process

    def _process(self, index: int, launched_s: float, options: Sequence[str]) -> subprocess.Popen[bytes]:
        self._paths.logs.mkdir(exist_ok=True)
        with self._paths.worker_log(index).open("ab") as log:  # what the worker says before it writes there itself
            return subprocess.Popen(
                command(self._paths.name, index, options),
                stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**environment(self._paths, launched_s), **self._own(self._device(index))},
            )

    def _device(self, index: int) -> Device | None:
        return self._devices[index % self.count] if self._devices else None  # indices come in a row

    def _own(self, device: Device | None) -> dict[str, str]:
        """What a worker's environment says of its share of the machine."""
        if device is not None:
            return {"CUDA_VISIBLE_DEVICES": device.name}
        if self.count == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // self.count))}

    def _clear(self, index: int, device: Device | None) -> None:
        """Sees that nothing of an earlier worker is left, and that the device has its memory back.

        Raises:
            OutOfRoomError: if what it started still holds memory there.
        """
        group = self._before.get(index)
        if group is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)  # what it may have left behind
        deadline = time.monotonic() + FREED_S
        while device is not None and (held := device.held_by({group})):
            if time.monotonic() > deadline:
                raise OutOfRoomError(
                    f"a worker begins when the memory of the one before is free, but {FREED_S:g} s after its end "
                    f"{', '.join(held)} still hold some of {device}; launch again when they do not, or set "
                    "CUDA_VISIBLE_DEVICES to others"
                )
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """Ends the processes that have waited in vain; they leave a log only where they said something."""
        for index, process in self._early.items():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            log = self._paths.worker_log(index)
            if log.is_file() and not log.stat().st_size:
                log.unlink()
        self._early = {}
