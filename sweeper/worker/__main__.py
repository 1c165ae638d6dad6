"""`python -m sweeper.worker [--learning-curve REQUEST] STUDY`: the process that holds the device, for the launcher.

It stops, with its trials checkpointed, on SIGTERM, or when its standard input closes: that is how it
learns that the launcher is gone, however that ended. It always writes an outcome.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import psutil
from filelock import FileLock, Timeout

from sweeper import __version__
from sweeper.disk import EXIT_CODE as DISK_FULL
from sweeper.disk import full, is_full
from sweeper.learning.request import Request
from sweeper.paths import LAUNCHED_S, Home
from sweeper.worker import log

logger = logging.getLogger("sweeper.worker")
HANDOVER_S = 120  # how long an earlier worker of a killed launcher may take to checkpoint


def main() -> None:
    *options, name = sys.argv[1:]
    paths = Home.from_environment().study(name)
    log.begin(paths.worker_log)
    logger.info("the worker of %s begins: process %d, sweeper %s", name, os.getpid(), __version__)
    launched_s = float(os.environ.get(LAUNCHED_S) or psutil.Process().create_time())
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to pass on
    threading.Thread(target=_watch_launcher, args=(stopping,), daemon=True).start()
    try:
        with _lock(paths.worker_lock, stopping):
            # Imported here, so that the signal handlers stand before the seconds that this takes.
            from sweeper.search.running import note

            note(paths.worker_holder)
            from sweeper.config import check
            from sweeper.events import EventLog
            from sweeper.tracking.opened import opened
            from sweeper.tracking.tracker import Watcher
            from sweeper.worker.session import Session

            curve = Request.from_json(options[1]) if options else None
            config = check.load(paths)
            with closing(EventLog(paths.events)) as events:
                watcher = Watcher(lambda line: events.write("note", message=line), stopping.is_set)
                tracker = opened(paths, config, config.tracking.patience_s, watcher, "worker-0")
                session = Session(paths, tracker, stopping.is_set, curve=curve, launched_s=launched_s)
                outcome = session.run()
    except Timeout:
        outcome = {
            "status": "error",
            "kind": "HeldError",
            "message": f"another worker of {paths.name!r} still runs; stop it, then launch again",
            "trace": None,
        }
    except Exception as error:  # the outcome must be written whatever happened
        trace = traceback.format_exc()
        error = full(error, paths.root) if is_full(error) else error
        outcome = {"status": "error", "kind": type(error).__name__, "message": str(error), "trace": trace}
    try:
        paths.write_outcome({"pid": os.getpid(), **outcome})
    except OSError as error:
        if not is_full(error):
            raise
        logger.error("how this worker ends cannot be written: %s", error)
        sys.exit(DISK_FULL)
    if outcome["status"] == "error":
        logger.error("%s: %s\n%s", outcome["kind"], outcome["message"], outcome["trace"] or "")
    logger.info("the worker of %s ends: %s", name, outcome["status"])
    sys.exit(0 if outcome["status"] != "error" else 1)


@contextmanager
def _lock(file: Path, stopping: threading.Event) -> Iterator[None]:
    """Waits for an earlier worker to leave; raises Timeout when it does not, or a stop is asked for."""
    lock = FileLock(file)
    deadline = time.monotonic() + HANDOVER_S
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            if stopping.is_set() or time.monotonic() > deadline:
                raise
    with lock:
        yield


def _watch_launcher(stopping: threading.Event) -> None:
    """Ends when standard input does."""
    while os.read(0, 1024):
        pass
    stopping.set()


if __name__ == "__main__":
    main()
