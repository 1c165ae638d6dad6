"""What runs on a node of a Ray cluster: an actor that holds one worker's process, and passes on what that writes.

Nothing here needs Ray; `ray_cluster.py` makes an actor of it. If the actor is gone, with its node or its launcher, the
worker's standard input closes, and the worker ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper import __version__
from sweeper.cluster.cluster import command, environment
from sweeper.config.outside import without_credentials
from sweeper.paths import Home, StudyPaths, write_atomically
from sweeper.tracking.place import VARIABLE

WAIT_S = 1.0  # that news are waited for before there are said to be none
_LOOK_S = 0.1
_PIECE = 1024**2  # bytes of a file that are passed on at once


@dataclass(frozen=True)
class Seat:
    """What a node says of itself.

    Attributes:
        version: sweeper's there.
        is_shared: the launcher's store is there too, at the same path.
    """

    host: str
    version: str
    is_shared: bool


@dataclass(frozen=True)
class News:
    """What has come since the last ones; of a store that is shared, the code alone.

    Attributes:
        code: the worker's, once it has ended and all of its files is passed on.
        events: whole lines.
        outcome: what the worker has written at its end.
    """

    code: int | None
    log: bytes = b""
    events: bytes = b""
    outcome: bytes | None = None


class Tail:
    """Reads what is appended to a file, also where that is put aside and begun anew."""

    def __init__(self, file: Path) -> None:
        """Reads from the end of what is there now."""
        self._path = file
        self._descriptor: int | None = None
        if file.is_file():
            self._descriptor = os.open(file, os.O_RDONLY)
            os.lseek(self._descriptor, 0, os.SEEK_END)

    def new(self, is_whole_lines: bool = False) -> bytes:
        """At most a piece of what was not read yet."""
        if self._descriptor is None:
            if not self._path.is_file():
                return b""
            self._descriptor = os.open(self._path, os.O_RDONLY)
        text = os.read(self._descriptor, _PIECE)
        if is_whole_lines and not text.endswith(b"\n"):
            whole = text[: text.rfind(b"\n") + 1]
            os.lseek(self._descriptor, len(whole) - len(text), os.SEEK_CUR)
            return whole
        if not text and self._is_put_aside():
            self.close()
        return text

    def _is_put_aside(self) -> bool:
        assert self._descriptor is not None
        with contextlib.suppress(FileNotFoundError):  # while it is renamed
            return not os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        return False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _environment(paths: StudyPaths, added: Mapping[str, str]) -> dict[str, str]:
    """The node's own, but for the tracking server: that is the launcher's, for which a node may have a password."""
    found = environment(paths, time.time())  # the device costs from now on
    own, uri = found.pop(VARIABLE, None), added.get(VARIABLE)
    return {**found, **added, **({VARIABLE: own} if own and uri and without_credentials(own) == uri else {})}


class Host:
    """Holds one worker.

    Args:
        home: the store on this node.
        name: of the study.
    """

    def __init__(self, home: str, name: str, index: int) -> None:
        self._paths, self._index = Home(Path(home)).study(name), index
        self._process: subprocess.Popen[bytes] | None = None
        self._tails: tuple[Tail, Tail] | None = None  # of log and events, where they must be passed on

    def look(self, token: str) -> Seat:
        """What this node is.

        Args:
            token: what stands in the launcher's store.
        """
        try:
            is_shared = self._paths.token.read_text(encoding="utf-8") == token
        except OSError:
            is_shared = False
        return Seat(socket.gethostname(), __version__, is_shared)

    def begin(self, options: Sequence[str], added: Mapping[str, str], files: Mapping[str, bytes] | None) -> int:
        """Starts the worker.

        Args:
            options: go to its command.
            added: to its environment: the tracking server, if there is one.
            files: the study's, by their paths in its folder, where the store is not shared; else None.

        Returns:
            Its process.
        """
        if self._process is not None:  # it was asked before, and its answer was lost
            return self._process.pid
        paths = self._paths
        if files is not None:
            paths.home.create()
            paths.create()
            for name, content in files.items():
                (paths.root / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(paths.root / name, content)
        for folder in (paths.logs, paths.workers):
            folder.mkdir(exist_ok=True)
        log = paths.worker_log(self._index)
        if files is not None:
            self._tails = Tail(log), Tail(paths.events)
            paths.outcome(self._index).unlink(missing_ok=True)
        with log.open("ab") as opened:  # what the worker says before it writes there itself
            self._process = subprocess.Popen(
                command(paths.name, self._index, options),
                stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                stdout=opened,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(paths, added),
            )
        return self._process.pid

    def news(self) -> News:
        """What has come, or after a while that nothing has."""
        deadline = time.monotonic() + WAIT_S
        while True:
            news = self._news()
            if news != News(None) or time.monotonic() > deadline:
                return news
            time.sleep(_LOOK_S)

    def _news(self) -> News:
        assert self._process is not None
        code = self._process.poll()  # before its files are read, which it then writes no more
        if self._tails is None:
            return News(code)
        log, events = self._tails[0].new(), self._tails[1].new(is_whole_lines=True)
        if code is None or log or events:
            return News(None, log, events)
        outcome = self._paths.outcome(self._index)
        return News(code, outcome=outcome.read_bytes() if outcome.is_file() else None)

    def stop(self) -> None:
        """Asks the worker to checkpoint and to end."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Ends the worker at once, with all its processes."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(self._process.pid, signal.SIGKILL)
