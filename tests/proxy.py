"""A TCP proxy whose connections can be cut, refused, frozen, or lost just before an answer arrives."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

_BLOCK = 1 << 16


class Proxy:
    """Forwards 127.0.0.1:`port` to a server of this machine, from a thread for each direction of a connection.

    Attributes:
        port: where it listens; the same for as long as it lives, refusing or not.
        losses: answers that `lose_answer` has kept back.
    """

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._to_lose: bytes | None = None
        self.port, self.losses = 0, 0
        self.accept()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.refuse()

    def accept(self) -> None:
        """Takes connections from now on."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._listener, self.port = listener, listener.getsockname()[1]
        threading.Thread(target=self._take, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """Cuts every connection, and takes none."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # close alone does not wake who waits in accept
            listener.close()
        self.thaw()
        self.drop()

    def drop(self) -> None:
        """Cuts every connection; new ones are taken."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _close(*pair)

    def freeze(self) -> None:
        """Keeps connections, and takes new ones, but nothing goes through."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Lets go through what has come meanwhile."""
        self._flowing.set()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Is away while the block runs."""
        self.refuse()
        try:
            yield
        finally:
            self.accept()

    def lose_answer(self, to: bytes) -> None:
        """The next request that has `to` in it reaches the server; its answer is lost, with its connection."""
        self._to_lose = to

    def _take(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:  # as if this were the server, which is not there
                client.close()
                continue
            lost = threading.Event()
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server, lost, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, lost, False), daemon=True).start()

    def _pump(self, source: socket.socket, to: socket.socket, lost: threading.Event, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                self._flowing.wait()
                if is_request and self._to_lose is not None and self._to_lose in block:
                    self._to_lose = None
                    lost.set()
                elif not is_request and lost.is_set():
                    self.losses += 1
                    break
                to.sendall(block)
        _close(source, to)


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
