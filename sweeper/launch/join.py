"""`sweeper worker`: more workers for a study that runs, here or on another machine that reaches its storage."""

from __future__ import annotations

import time
from collections.abc import Callable

from sweeper.cluster.local import LocalCluster
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import ConfigError, StoreError
from sweeper.launch.screen import Output
from sweeper.launch.supervisor import Supervisor
from sweeper.paths import Home, StudyPaths
from sweeper.search.running import is_held, working
from sweeper.search.views import begun, is_finished

FIRST = 100  # the index of the first worker that joined; those of a launcher are below


def join(
    home: Home, name: str, workers: int | None, announce: Callable[[str], None], output: Output = Output.PERSON
) -> int:
    """Works on a study until its trials have ended, or a stop is asked for.

    Args:
        workers: how many; None: one for each GPU that is visible, or one on the CPU.
        announce: takes a line for the person.

    Returns:
        As `Supervisor.run`.

    Raises:
        StoreError: if there is no such study here, or something needs it for itself.
        ConfigError: if the study is to have one worker.
    """
    began_s = time.time()
    paths = home.study(name)
    config = _config(paths)
    before = begun(home, name)
    if before is not None and is_finished(before, config):
        announce(f"{name} is complete already: {before.summary()}")
        return 0
    own = config.model_copy(update={"cluster": config.cluster.model_copy(update={"workers": workers})})
    first = max([FIRST - 1, *working(paths)]) + 1
    cluster = LocalCluster(paths, own, began_s, first)
    announce(f"{cluster.count} more worker{'s' * (cluster.count > 1)} for {name}; Ctrl-C takes them back")
    return Supervisor(paths, own, before, since_s=began_s, output=output, cluster=cluster, first=first).run()


def _config(paths: StudyPaths) -> Config:
    if not paths.config.is_file():
        raise StoreError(
            f"a worker needs the study's folder, but {paths.root} has no {paths.config.name}; launch the study first, "
            "with SWEEPER_HOME on a disk that both machines see"
        )
    if is_held(paths.work_lock) or paths.deleting.exists():
        raise StoreError(f"{paths.name!r} is being deleted, or run again (`sweeper rerun`); wait for that")
    config = check.load(paths)
    if config.search.deterministic:
        raise ConfigError(
            "search.deterministic: with it a study has one worker, whose asks come in a fixed order, but it is true"
        )
    return config
