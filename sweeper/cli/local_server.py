"""A server run until Ctrl-C, for this machine alone by default, and ended with all that it has started."""

from __future__ import annotations

import contextlib
import errno
import getpass
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
        host: the address that it listens on.
        start_s: for how long it may be silent at its start.
        is_heard: whether what it writes is shown as it comes; otherwise its last lines are, where it fails.
    """

    name: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str]
    ready_path: str
    host: str = HOST
    start_s: float = START_S
    is_heard: bool = False

    @property
    def url(self) -> str:
        host = {"0.0.0.0": HOST, "::": "::1"}.get(self.host, self.host)  # all addresses are none to ask at
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

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
        check_port(self.port, self.host)
        with tempfile.TemporaryFile() as log:
            # Its own session: Ctrl-C is for this process, which ends the whole group.
            process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr if self.is_heard else log,
                stderr=sys.stderr if self.is_heard else subprocess.STDOUT,
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
        deadline = time.monotonic() + self.start_s
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StoreError(self._ended(process, log))
            with contextlib.suppress(OSError), _here_alone.open(self.url + self.ready_path, timeout=_ANSWER_S):
                return
            time.sleep(_POLL_S)
        raise StoreError(f"{self.name} must answer within {self.start_s:g} s, but does not{self._last(log)}")

    def _ended(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
        return f"{self.name} must run until Ctrl-C, but has ended with {process.returncode}{self._last(log)}"

    def _last(self, log: IO[bytes]) -> str:
        return "; what it wrote is above" if self.is_heard else f":\n{_tail(log)}"


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
    with until_interrupted(), server.running() as process:
        found = links()
        click.echo(f"{server.name} on {server.url}{start} (store: {home.root}); Ctrl-C ends it")
        if (command := tunnel(server.port, os.environ)) is not None:
            click.echo(f"from the machine that you came from, at the same address: {command}")
        for name, link in islice(found.items(), MOST):
            click.echo(f"{name}: {link}")
        if len(found) > MOST:
            click.echo(f"and {len(found) - MOST} more studies; `sweeper ui STUDY` says the link of one")
        sys.stdout.flush()  # for whoever reads it through a pipe
        if is_opening:
            webbrowser.open(next(iter(found.values())) if len(found) == 1 else server.url + start)
        process.wait()


def tunnel(port: int, environ: Mapping[str, str]) -> str | None:
    """The command that shows a port of this machine to whoever is on it by SSH; None where nobody is."""
    words = environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4:
        return None
    _, _, here, ssh_port = words
    other_port = "" if ssh_port == "22" else f"-p {ssh_port} "
    return f"ssh -N -L {port}:{HOST}:{port} {other_port}{getpass.getuser()}@{here}"


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Ends the block, without an error, at Ctrl-C, a polite kill, or when the terminal is closed."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _ENDS}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_port(port: int, host: str = HOST) -> None:
    """Refuses a port that is taken.

    Raises:
        StoreError: if it is, or the address is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StoreError(f"--host must be an address of this machine, but {host}: {error.strerror}") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise StoreError(f"--host must be an address of this machine, but {host} is not") from None
            raise StoreError(f"port {port} must be free, but {error.strerror}; try --port {port + 1}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its group, politely first."""
    with contextlib.suppress(ProcessLookupError):  # the group outlives its leader, as long as anybody is in it
        os.killpg(process.pid, signal.SIGTERM)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    finally:  # a second Ctrl-C does not wait, and leaves nothing behind either
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return redacted("\n".join(log.read().decode(errors="replace").splitlines()[-LAST_LINES:]))
