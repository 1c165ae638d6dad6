"""`python -m sweeper.worker [--index N] [--early] [--detached] [--learning-curve REQUEST] STUDY`: what holds a device.

It stops, with its trials checkpointed, on SIGTERM, or when its standard input closes: that is how it
learns that the launcher is gone, however that ended; one that is detached goes on then. It always writes an outcome,
once it has begun: one that was started early waits to be told, and ends without a word where nobody does.
"""

from __future__ import annotations

import argparse
import atexit
import gc
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
from typing import Any, NamedTuple

import psutil
from filelock import FileLock, Timeout

from sweeper import __version__, outcome
from sweeper.cluster.cluster import DETACHED, EARLY
from sweeper.disk import EXIT_CODE as DISK_FULL
from sweeper.disk import full, is_full
from sweeper.learning.request import Request
from sweeper.paths import LAUNCHED_S, Home, StudyPaths
from sweeper.worker import log

logger = logging.getLogger("sweeper.worker")
HANDOVER_S = 120  # how long an earlier worker of a killed launcher may take to checkpoint


def main() -> None:
    given = _parser().parse_args()
    atexit.register(gc.freeze)  # or a last collection, over what the libraries leave, takes seconds on a billed device
    paths = Home.from_environment().study(given.study)
    log.begin(paths.worker_log(given.index))  # before the libraries, which keep the streams that they find
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    for number in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C is the launcher's to pass on; a terminal may go
        signal.signal(number, signal.SIG_IGN)
    launch = _awaited() if given.early else _launch()
    if launch is None:  # the launcher gave up
        return
    logger.info("worker %d of %s begins: process %d, sweeper %s", given.index, given.study, os.getpid(), __version__)
    if not given.detached:
        threading.Thread(target=_watch_launcher, args=(stopping,), daemon=True).start()
    try:
        ended = _run(paths, given, launch, stopping)
    except Timeout:
        ended = {
            "status": outcome.ERROR,
            "kind": "HeldError",
            "message": f"another worker of {given.study!r} still runs in its place; stop it, then launch again",
            "trace": None,
        }
    except Exception as error:  # the outcome must be written whatever happened
        trace = traceback.format_exc()
        error = full(error, paths.root) if is_full(error) else error
        ended = {"status": outcome.ERROR, "kind": type(error).__name__, "message": str(error), "trace": trace}
    try:
        paths.write_outcome(given.index, {"pid": os.getpid(), **ended})
    except OSError as error:
        if not is_full(error):
            raise
        logger.error("how this worker ends cannot be written: %s", error)
        sys.exit(DISK_FULL)
    if ended["status"] == outcome.ERROR:
        logger.error("%s: %s\n%s", ended["kind"], ended["message"], ended["trace"] or "")
    logger.info("worker %d of %s ends: %s", given.index, given.study, ended["status"])
    sys.exit(0 if ended["status"] != outcome.ERROR else 1)


class _Launch(NamedTuple):
    """When a launch began, and when it told this process to work, in seconds since 1970."""

    launched_s: float
    began_s: float


def _launch() -> _Launch:
    began_s = psutil.Process().create_time()
    return _Launch(float(os.environ.get(LAUNCHED_S) or began_s), began_s)


def _awaited() -> _Launch | None:
    """Imports what takes seconds, and waits for the launcher's word; None where it has gone without one."""
    _import()
    times = sys.stdin.readline().split()
    return _Launch(*map(float, times)) if times else None


def _import() -> None:
    """Loads the libraries; their objects stay, so that going through them, again and again, is for nothing."""
    gc.disable()  # a third of the time
    import sweeper.tracking.opened
    import sweeper.worker.session  # noqa: F401

    gc.freeze()
    gc.enable()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sweeper.worker")
    parser.add_argument("--index", type=int, default=0, help="which of the study's workers it is")
    parser.add_argument(
        EARLY,
        action="store_true",
        help="waits for a line on its standard input: when the launch began, and when the work",
    )
    parser.add_argument(DETACHED, action="store_true", help="goes on when its standard input closes")
    parser.add_argument("--learning-curve", type=Request.from_json, help="measures one in place of the search")
    parser.add_argument("study")
    return parser


def _run(paths: StudyPaths, given: argparse.Namespace, launch: _Launch, stopping: threading.Event) -> dict[str, Any]:
    """Works on the study; returns how that ended."""
    with _lock(paths.worker_lock(given.index), stopping):
        from sweeper.search.running import note, sharing

        note(paths.worker_holder(given.index))
        _import()  # here, so that the signal handlers stand before the seconds that this takes
        from sweeper.config import check
        from sweeper.events import EventLog
        from sweeper.tracking.opened import opened
        from sweeper.tracking.tracker import Watcher
        from sweeper.worker.session import Session

        config = check.load(paths)
        with sharing(paths, HANDOVER_S), closing(EventLog(paths.events, given.index)) as events:
            watcher = Watcher(lambda line: events.write("note", message=line), stopping.is_set)
            tracker = opened(paths, config, config.tracking.patience_s, watcher, f"worker-{given.index}")
            session = Session(
                paths,
                tracker,
                stopping.is_set,
                curve=given.learning_curve,
                launched_s=launch.launched_s,
                began_s=launch.began_s,
                index=given.index,
            )
            return session.run()


@contextmanager
def _lock(file: Path, stopping: threading.Event) -> Iterator[None]:
    """Waits for an earlier worker to leave; raises Timeout when it does not, or a stop is asked for."""
    file.parent.mkdir(exist_ok=True)
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
