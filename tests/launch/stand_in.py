"""Workers that do as they are told and load nothing, for a supervisor to follow; as a program, a launch of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from sweeper.cluster.cluster import Cluster
from sweeper.cluster.local import LocalWorker
from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.launching.supervisor import Supervisor
from sweeper.paths import Home, StudyPaths

# What each script does, beside `paths`, `index` and `events`.
_BEFORE = """
import os, signal, sys, time
from sweeper.events import EventLog
from sweeper.paths import Home
paths, index = Home.from_environment().study("demo"), int(sys.argv[1])
events = EventLog(paths.events, index)
def end(status, **more):
    paths.write_outcome(index, {"pid": os.getpid(), "status": status, **more})
    sys.exit(status == "error")
"""


class StandIns(Cluster):
    """Starts what a list of scripts says for each worker: the first time the first, and so on, the last for ever."""

    def __init__(self, paths: StudyPaths, scripts: Sequence[Sequence[str]]) -> None:
        self.count, self._scripts, self.started = len(scripts), scripts, [0] * len(scripts)
        paths.logs.mkdir(parents=True, exist_ok=True)
        self._paths = paths

    def start(self, index: int, options: Sequence[str] = ()) -> LocalWorker:
        turn = min(self.started[index], len(self._scripts[index]) - 1)
        self.started[index] += 1
        with self._paths.worker_log(index).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _BEFORE + self._scripts[index][turn], str(index)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return LocalWorker(index, process)

    def close(self) -> None:
        self.is_closed = True


def main(script: str) -> None:
    """Launches one worker, where the standard output is."""
    paths = Home.from_environment().study("demo")
    paths.create()
    configs: list[Config] = []
    compose.main(["study=demo"], configs.append)
    print("code", Supervisor(paths, configs[0], cluster=StandIns(paths, [[script]])).run(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
