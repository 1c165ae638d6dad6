"""A launcher or worker of a study for tests of `sweeper stop`: it holds the lock, notes itself, and ends when asked to.

As a launcher it is run through a file that is named `sweeper`, as one that is installed is.
"""

from __future__ import annotations

import signal
import sys
import time

from filelock import FileLock

from sweeper.paths import Home
from sweeper.search.running import note


def main(role: str, name: str, how: str) -> None:
    """Runs until SIGTERM; `how` is stopped, finished, error, defect, silent (no outcome) or deaf (never ends)."""
    paths = Home.from_environment().study(name)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    lock, file = (
        (paths.launcher_lock, paths.holder) if role == "launcher" else (paths.worker_lock(0), paths.worker_holder(0))
    )
    with FileLock(lock):
        if how != "unnoted":
            note(file)
        print("ready", flush=True)
        while not asked or how == "deaf":
            time.sleep(0.02)
        if how != "silent":
            how, kind = ("error", "KeyError") if how == "defect" else (how, "StoreError")
            paths.write_outcome(0, {"pid": 1, "status": how, "message": "no space left", "kind": kind})


if __name__ == "__main__":
    main(*sys.argv[-3:])
