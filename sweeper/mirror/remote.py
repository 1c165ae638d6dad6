"""The place where a mirror is, as fsspec reaches it: a folder, a bucket, a machine by SSH."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fsspec

from sweeper.errors import MirrorError
from sweeper.redaction import redacted

LOCAL = "file"


class Remote:
    """A folder at a URL; credentials are those that fsspec finds in the environment.

    Raises:
        MirrorError: as every method, if there is no such place, it cannot be reached, or it refuses.
    """

    def __init__(self, url: str) -> None:
        self.url = redacted(url.rstrip("/"))
        with self._reached("opened"):
            self._system, root = fsspec.core.url_to_fs(url)
            self._root = str(root).rstrip("/")

    @property
    def folder(self) -> Path | None:
        """Where it is on this machine's own disks; None where it is elsewhere."""
        protocols = self._system.protocol
        is_local = LOCAL in ((protocols,) if isinstance(protocols, str) else protocols)
        return Path(self._root) if is_local else None

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        with self._reached("read"):
            try:
                return bytes(self._system.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        path = f"{self._root}/{name}"
        with self._reached("written"):
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(path, content)

    def sizes(self, folder: str) -> dict[str, int]:
        """The names in a folder, and the bytes of each file; nothing where there is no such folder."""
        with self._reached("read"):
            self._system.invalidate_cache()  # others write there too
            try:
                found = self._system.ls(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return {}
        return {str(item["name"]).rstrip("/").rpartition("/")[2]: int(item["size"] or 0) for item in found}

    def delete(self, names: Sequence[str]) -> None:
        """Deletes files; one that is gone already is no error."""
        with self._reached("written"):
            for name in names:
                try:
                    self._system.rm_file(f"{self._root}/{name}")
                except FileNotFoundError:
                    continue

    @contextmanager
    def _reached(self, done: str) -> Iterator[None]:
        try:
            yield
        except MirrorError:
            raise
        # Each of fsspec's file systems raises what the library below it does: there is no common root.
        except Exception as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise MirrorError(
                f"store.mirror must be a place that can be read and written, but {self.url} could not be {done}: "
                f"{redacted(words)}"
            ) from error


def check(url: str) -> str | None:
    """Writes a small file to a mirror, reads it back and deletes it.

    Returns:
        None where that went well; else what is wrong, without secrets.
    """
    name, content = f"probe-{uuid.uuid4().hex}", uuid.uuid4().bytes
    try:
        remote = Remote(url)
        remote.write(name, content)
        found = remote.read(name)
        remote.delete([name])
    except MirrorError as error:
        return str(error)
    if found != content:
        return f"store.mirror must give back what is written, but {remote.url} gave something else"
    return None
