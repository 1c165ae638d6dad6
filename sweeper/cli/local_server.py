"""A server of somebody else's, run for this machine alone until Ctrl-C, and ended with all that it has started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import click

from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.redaction import redacted

HOST = "127.0.0.1"
START_S, END_S = 120.0, 5.0  # for how long a server may be silent at its start, and may take for its end
MOST = 20  # studies that have a line each
LAST_LINES = 12  # of what a server wrote, where it has failed
_POLL_S = 0.1
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ANSWER_S = 30.0


@dataclass(frozen=True)
class LocalServer:
    """A server to run.

    Attributes:
        name: what persons call it.
        ready_path: the path that answers once it can be used.
    """

    name: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str]
    ready_path: str

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def get(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What it answers, from JSON.

        Args:
            body: is sent with POST; None: GET.

        Raises:
            StoreError: if it does not answer, or refuses.
        """
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with _here_alone.open(request, timeout=_ANSWER_S) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.name} must answer at {self.url}{path}, but: {error}") from error

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The server's process, while the block runs; it answers. Whatever it has started ends with it.

        Raises:
            StoreError: if the port is taken, or it ends at its start, or stays silent.
        """
        _check_port(self.port)
        with tempfile.TemporaryFile() as log:
            # Its own session: Ctrl-C is for this process, which ends the whole group.
            process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                self._wait_until_ready(process, log)
                yield process
                if process.poll() is not None:
                    raise StoreError(self._ended(process, log))
            finally:
                _end(process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StoreError(self._ended(process, log))
            with contextlib.suppress(OSError), _here_alone.open(self.url + self.ready_path, timeout=_ANSWER_S):
                return
            time.sleep(_POLL_S)
        raise StoreError(f"{self.name} must answer within {START_S:g} s, but does not:\n{_tail(log)}")

    def _ended(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
        return f"{self.name} must run until Ctrl-C, but has ended with {process.returncode}:\n{_tail(log)}"


_here_alone = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is for others' addresses


def browse(
    server: LocalServer, home: Home, start: str, links: Callable[[], Mapping[str, str]], is_opening: bool
) -> None:
    """Runs a server until Ctrl-C, and says where it shows what.

    Args:
        start: the path of its first page.
        links: the address of each study, asked once the server answers.
        is_opening: whether to open a browser, on the study where there is one, else on the first page.

    Raises:
        StoreError: if the server cannot run.
    """
    with _until_interrupted(), server.running() as process:
        found = links()
        click.echo(f"{server.name} on {server.url}{start} (store: {home.root}); Ctrl-C ends it")
        for name, link in islice(found.items(), MOST):
            click.echo(f"{name}: {link}")
        if len(found) > MOST:
            click.echo(f"and {len(found) - MOST} more studies; `sweeper ui STUDY` says the link of one")
        sys.stdout.flush()  # for whoever reads it through a pipe
        if is_opening:
            webbrowser.open(next(iter(found.values())) if len(found) == 1 else server.url + start)
        process.wait()


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ends the block, without an error, at Ctrl-C, a polite kill, or when the terminal is closed."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _ENDS}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StoreError(f"port {port} must be free, but {error.strerror}; try --port {port + 1}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its group, politely first."""
    with contextlib.suppress(ProcessLookupError):  # the group outlives its leader, as long as anybody is in it
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return redacted("\n".join(log.read().decode(errors="replace").splitlines()[-LAST_LINES:]))
