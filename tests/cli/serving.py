"""`sweeper ui` in a process of its own, for tests that look at what it serves."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from sweeper.paths import Home


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(home: Home, study: str, *arguments: str, ends: signal.Signals = signal.SIGINT) -> Iterator[str]:
    """The link that `sweeper ui` prints for a study, while it runs; Ctrl-C ends it and all that it started.

    Args:
        ends: what is sent in place of Ctrl-C.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "ui", study, "--port", str(free_port()), *arguments],
        env={**os.environ, "SWEEPER_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    started = []
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if link := re.match(rf"{re.escape(study)}: (http\S+)", line):
                started = psutil.Process(process.pid).children(recursive=True)
                assert started
                yield link[1]
                break
        else:
            raise AssertionError(f"no link was printed, but {said}")
    finally:
        process.send_signal(ends)
        code = process.wait(30)
        process.stdout.close()
    assert code == 0
    assert not [one for one in started if one.is_running()]


def origin_of(link: str) -> str:
    return re.match(r"http://[^/]+", link)[0]  # type: ignore[index]
