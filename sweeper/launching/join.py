"""`sweeper worker`: more workers for a study that runs, here or on another machine that reaches its database.

A machine that does not see the study's folder has one of its own, which comes from the study's mirror and goes there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from filelock import FileLock, Timeout

from sweeper.cluster.local import LocalCluster
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, StoreError
from sweeper.launching.screen import Output
from sweeper.launching.supervisor import Supervisor
from sweeper.mirror.manifest import latest
from sweeper.mirror.mirror import Mirror
from sweeper.mirror.remote import Remote
from sweeper.mirror.restoring import restore
from sweeper.paths import Home, StudyPaths
from sweeper.redaction import redacted
from sweeper.search.running import is_held
from sweeper.search.storage import keep_storage
from sweeper.search.views import begun, is_finished
from sweeper.tracking.place import Place

FIRST = 100  # the index of the first worker that joined; those of a launcher are below


def join(
    home: Home,
    name: str,
    workers: int | None,
    mirror: str | None,
    announce: Callable[[str], None],
    output: Output = Output.PERSON,
) -> int:
    """Works on a study until its trials have ended, or a stop is asked for.

    Args:
        workers: how many; None: one for each GPU that is visible, or one on the CPU.
        mirror: where the study's folder comes from, if it is not here.
        announce: takes a line for the person.

    Returns:
        As `Supervisor.run`.

    Raises:
        StoreError: if there is no such study here, or something needs it for itself.
        MirrorError: if the mirror cannot be read.
        ConfigError: if the study is to have one worker.
    """
    began_s = time.time()
    paths = home.study(name)
    if mirror is not None and not paths.config.is_file():
        _bring(paths, mirror, announce)
    config = _config(paths)
    if mirror is not None and Place.of(config).uri is None:
        raise ConfigError(
            "tracking.uri: a study whose workers do not share a folder has its runs on a tracking server, but it is "
            "null; set it for the study, or MLFLOW_TRACKING_URI on each machine"
        )
    home = _at_its_database(home, config)
    paths = home.study(name)
    before = begun(home, name)
    if before is not None and is_finished(before, config):
        announce(f"{name} is complete already: {before.summary()}")
        return 0
    own = config.model_copy(update={"cluster": config.cluster.model_copy(update={"workers": workers})})
    cluster = LocalCluster(paths, own, began_s)
    copies = Mirror.of(paths, config) if home.is_on_server else None  # else its launcher's
    with _places(paths, cluster.count) as first, copies.running(announce) if copies is not None else nullcontext():
        announce(f"{cluster.count} more worker{'s' * (cluster.count > 1)} for {name}; Ctrl-C takes them back")
        return Supervisor(paths, own, before, since_s=began_s, output=output, cluster=cluster, first=first).run()


@contextmanager
def _places(paths: StudyPaths, count: int) -> Iterator[int]:
    """Takes so many indices in a row, which no other worker of this folder has; the first of them."""
    first = FIRST
    while True:
        with ExitStack() as taken:
            try:
                for index in range(first, first + count):
                    taken.enter_context(FileLock(paths.workers / f"{index}.joined.lock").acquire(timeout=0))
                    if is_held(paths.worker_lock(index)):
                        raise Timeout(str(paths.worker_lock(index)))
            except Timeout:
                first += 1
                continue
            yield first
            return


def _bring(paths: StudyPaths, url: str, announce: Callable[[str], None]) -> None:
    """Brings the study's folder from its mirror.

    Raises:
        StoreError: if the mirror has none whose workers may be on several machines.
    """
    found = latest(Remote(url))
    if not found or any(manifest.has_trials for manifest in found):
        what = "has no study yet" if not found else "has the trials too, in SQLite, which is one machine's"
        raise StoreError(
            f"a worker on another machine needs a mirror of a study whose trials are in PostgreSQL (store.optuna), but "
            f"{redacted(url)} {what}"
        )
    paths.home.create()
    paths.create()
    restore(paths, url, announce)


def _at_its_database(home: Home, config: Config) -> Home:
    """The store with the database that the study is in, which is kept for other commands."""
    named = Home.named(str(home.root), config.store.optuna)
    keep_storage(named)
    return named


def _config(paths: StudyPaths) -> Config:
    if not paths.config.is_file():
        raise StoreError(
            f"a worker needs the study's folder, but {paths.root} has no {paths.config.name}; launch the study first, "
            "with SWEEPER_HOME on a disk that both machines see, or say --mirror URL of its store.mirror"
        )
    if is_held(paths.work_lock) or paths.deleting.exists():
        raise StoreError(f"{paths.name!r} is being deleted, or run again (`sweeper rerun`); wait for that")
    config = check.load(paths)
    if config.search.deterministic:
        raise ConfigError(
            "search.deterministic: with it a study has one worker, whose asks come in a fixed order, but it is true"
        )
    return config
