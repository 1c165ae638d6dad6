"""What other machines have of a study that shares a database with them, and its files through its mirror."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.config.schema import Config
from sweeper.errors import MirrorError, StoreError
from sweeper.events import EventLog
from sweeper.mirror.mirror import Mirror
from sweeper.paths import StudyPaths
from sweeper.search.views import StudyView, kept_adapters

logger = logging.getLogger(__name__)
_LOOK_S = 5.0  # between two looks for what is not in the mirror yet
_LATE_S = 120.0  # how much longer than its interval a copy may take


class Elsewhere:
    """The files of a study that are on other machines; there are none of a study whose trials are in this store."""

    def __init__(self, paths: StudyPaths, config: Config, events: EventLog) -> None:
        self._paths, self._config, self._events = paths, config, events
        self._mirror = Mirror.of(paths, config) if paths.home.is_on_server else None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Lets the others have what is written here while the block runs, unless the launcher here does."""
        if self._mirror is None:
            yield
            return
        with self._mirror.running(lambda line: self._events.write("note", message=line)):
            yield

    def bring(self, path: Path) -> None:
        """Brings a file or a folder of the study, where another machine has written it since."""
        if self._mirror is None:
            return
        try:
            self._mirror.fetch(path.relative_to(self._paths.root).as_posix())
        except (MirrorError, OSError) as error:  # what is here does, or there is nothing yet
            logger.warning("%s is not looked for elsewhere: %s", path.name, error)

    def gather(self, seen: Callable[[], StudyView], is_stopping: Callable[[], bool]) -> None:
        """Brings what the end of a study needs: all of its trials, and the adapters that are kept.

        Raises:
            StoreError: if the mirror does not get one of them.
        """
        if self._mirror is None:
            return
        deadline = time.monotonic() + self._config.mirror.every_s + _LATE_S
        while not is_stopping():
            self.bring(self._paths.trials)
            kept = kept_adapters(seen(), self._paths, self._config)
            missing = [number for number in kept if not self._paths.adapter(number).is_dir()]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the adapters of the best trials must be here or in the mirror at the end of a study, but that of "
                    f"trial {', '.join(map(str, missing))} is on the machine that trained it, which has not copied it "
                    f"to {self._config.store.mirror}; `sweeper worker` there does, and the same launch goes on"
                )
            time.sleep(_LOOK_S)
