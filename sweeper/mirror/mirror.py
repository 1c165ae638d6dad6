"""The mirror of one study, as its launcher and its workers use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from sweeper.config.schema import Config
from sweeper.errors import ConfigError, MirrorError, StoreError
from sweeper.mirror.copying import Copier, when
from sweeper.mirror.manifest import latest, merged, owner
from sweeper.mirror.remote import Remote, check
from sweeper.mirror.restoring import fetch_file, restore, target_of
from sweeper.mirror.standing import Standing
from sweeper.paths import StudyPaths
from sweeper.tracking.place import record

AGAIN_S = 20.0  # after which a copy that failed is tried once more
_LAST_TRIES = 3  # of the copy at the end, which nobody makes up for
_LAST_PAUSE_S = 2.0
Announce = Callable[[str], None]


class Mirror:
    """Copies a study while it runs.

    Args:
        every_s: the time between two copies.

    Raises:
        MirrorError: if the URL cannot be understood, or needs a package that is not installed.
    """

    def __init__(self, paths: StudyPaths, url: str, every_s: float) -> None:
        self._paths, self._url, self._every_s = paths, url, every_s
        self._remote = Remote(url)
        self._copier = Copier(paths, self._remote)
        self._ending = threading.Event()
        self._lock = FileLock(paths.mirror_lock, thread_local=False)
        self._problem: str | None = None

    @classmethod
    def of(cls, paths: StudyPaths, config: Config) -> Mirror | None:
        """That of a study; None where `store.mirror` names none.

        Raises:
            ConfigError: if it would lie in the store itself.
            MirrorError: as `Mirror`.
        """
        url = config.store.mirror
        if url is None:
            return None
        made, root = cls(paths, url, config.mirror.every_s), paths.home.root.resolve()
        folder = made._remote.folder
        if folder is not None and (folder.resolve() == root or root in folder.resolve().parents):
            raise ConfigError(f"store.mirror: must be outside of the store, which it is to outlive, but got {url!r}")
        return made

    def begin(self, is_new: bool, announce: Announce) -> None:
        """Sees that the mirror can be used and is this study's; brings the study back from it where it is not here.

        Args:
            is_new: nothing of the study was measured here.

        Raises:
            MirrorError: if it cannot be written, is another study's, or is further than the study here.
            StoreError: if the study cannot be brought back into this store.
        """
        problem = check(self._url)
        if problem is not None:
            raise MirrorError(problem)
        owned, here = owner(self._remote), record(self._paths)
        if owned is None:
            return
        is_same = here is not None and here.study_id == owned.study_id
        is_gone = not self._paths.config.is_file()
        if owned.study != self._paths.name or not (is_same or is_new or is_gone):
            raise MirrorError(
                f"a mirror is one study's, but {self._remote.url} has "
                f"{f'the study {owned.study!r}' if owned.study != self._paths.name else 'another study of that name'}; "
                "store.mirror=URL of an empty place begins another mirror"
            )
        standing = Standing.of(self._paths)
        ahead = [one for one in latest(self._remote) if one.has_trials]
        further = [one for one in ahead if one.writer != standing.writer or standing.is_behind(one)]
        is_cut = standing.is_restoring or not ahead  # what is here is a part of it
        if (is_new and (further or is_gone or standing.is_restoring)) or (is_gone and is_cut):
            restore(self._paths, self._url, announce)
        elif further or is_gone:
            raise MirrorError(
                f"a mirror may not be further than the study, but {self._remote.url} has {self._paths.name!r} as of "
                f"{when(ahead[0])}, and {self._paths.root} has not come so far, or is not whole. Where the study went "
                "on elsewhere, go on there; to give up what is here alone, set SWEEPER_HOME or store.home=DIR to an "
                "empty folder, and the same command goes on from the mirror"
            )

    @contextmanager
    def running(self, announce: Announce) -> Iterator[None]:
        """Copies from a thread while the block runs, and once more when it has ended, however it did.

        Of several processes that have the study's folder, one does: the launcher there, or the first worker.
        """
        self._ending.clear()
        thread = threading.Thread(target=self._copy_on, args=(announce,), name="mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join()

    def _copy_on(self, announce: Announce) -> None:
        with suppress(Timeout):
            self._lock.acquire(timeout=0)
        while not self._ending.wait(min(self._every_s, AGAIN_S) if self._problem else self._every_s):
            if not self._is_mine():
                continue
            was = self._problem
            self._try()
            if self._problem is not None and was is None:
                announce(f"warning: {self._problem}. It is tried again while the study goes on")
            elif self._problem is None and was is not None:
                announce("note: the study's mirror is reached again, and has all of it")
        if self._is_mine():
            self.copy(announce)
            self._lock.release()

    def _is_mine(self) -> bool:
        """Whether this process makes the copies of this folder; it does from when nobody else does."""
        with suppress(Timeout):
            self._lock.acquire(timeout=0)
            while self._lock.lock_counter > 1:  # it had it
                self._lock.release()
        return bool(self._lock.is_locked)

    def copy(self, announce: Announce) -> None:
        """Makes the copy that a study which has ended is left with, or says what the mirror has instead."""
        for tries_left in reversed(range(_LAST_TRIES)):
            if self._try():
                announce(f"the mirror has the study as it is: {self._remote.url}")
                return
            if tries_left:
                time.sleep(_LAST_PAUSE_S)
        last = self._copier.last
        has = f"has the study as it was at {when(last)}" if last is not None else "has nothing of the study"
        announce(f"warning: {self._problem}. The mirror {has}; what came later is here alone")

    def _try(self) -> bool:
        """Makes a copy; training goes on without it."""
        try:
            self._copier.copy()
        except MirrorError as error:
            self._problem = str(error)
        except (OSError, StoreError) as error:
            self._problem = f"the study could not be copied to its mirror: {error}"
        else:
            self._problem = None
        return self._problem is None

    def fetch(self, relative: str) -> bool:
        """Brings a file or a folder of the study that another machine has written, where it is newer than here.

        Args:
            relative: its path in the study's folder.

        Returns:
            Whether anything was brought.

        Raises:
            MirrorError: if the mirror cannot be read.
        """
        home, own = self._paths.home, Standing.of(self._paths).writer
        wanted = (self._paths.root / relative).relative_to(home.root).as_posix()
        others = [manifest for manifest in latest(self._remote) if manifest.writer != own]
        brought = False
        for name, (manifest, entry) in sorted(merged(others).items()):
            target = target_of(home, name)
            if name != wanted and not name.startswith(f"{wanted}/"):
                continue
            if not target.exists() or target.stat().st_mtime_ns < entry.mtime_ns:
                fetch_file(self._remote, manifest, entry, target)
                brought = True
        return brought
