"""What the study's run in MLflow says of the study: a description while it runs, and a report when a session ends."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.config.schema import Config
from sweeper.errors import SweeperError
from sweeper.events import EventLog
from sweeper.paths import StudyPaths
from sweeper.report.facts import Facts
from sweeper.report.figures import figures
from sweeper.report.html import html
from sweeper.report.markdown import markdown
from sweeper.report.note import note
from sweeper.report.report import content
from sweeper.search.study import Search
from sweeper.search.views import StudyView
from sweeper.tracking.tracker import STUDY, Tracker
from sweeper.worker.spending import Spending

PICTURES, REPORT = "pictures", "report"  # folders of the run's artifacts
EVERY_S = 60.0  # between two descriptions, unless another trial is the best
MOST = 8000  # characters that MLflow takes of one
logger = logging.getLogger(__name__)


class Reports:
    """What is said of one study on its run."""

    def __init__(
        self, paths: StudyPaths, config: Config, search: Search, tracker: Tracker, spending: Spending, events: EventLog
    ) -> None:
        self._paths = paths
        self._config = config
        self._search = search
        self._tracker = tracker
        self._spending = spending
        self._events = events
        self._best: int | None = None
        self._said_s = -EVERY_S
        self._failed: set[str] = set()  # what has been said of it

    def describe(self, is_running: bool = True) -> None:
        """Writes the run's description, as the study stands; one that cannot be composed is left as it was.

        Raises:
            TrackingError: if the tracking server does not take it.
        """
        self._said_s = time.monotonic()
        try:
            facts = self._facts(is_running)
            self._best = facts.best.number if facts.best is not None else None
            words = note(facts, MOST)
        except Exception as error:  # a defect in a sentence must not stop the trainings that it is about
            self._say("the description is", error)
            return
        self._tracker.describe(words)

    def trial_ended(self, seen: StudyView) -> None:
        """Writes the run's description again where another trial is the best, or the last one is a minute old."""
        best = seen.best
        if (best.number if best is not None else None) != self._best or time.monotonic() - self._said_s >= EVERY_S:
            self.describe()

    def _facts(self, is_running: bool) -> Facts:
        cost = self._spending.account()
        return Facts(self._paths, self._search.seen(), self._config, cost, is_running, leaves_home=True)

    @contextmanager
    def logged(self, is_stopping: Callable[[], bool], is_due: object = True) -> Iterator[None]:
        """Puts description, pictures and report on the run when a session leaves the block, unless by an error.

        Somebody who stops a study waits for it, and gets the description alone.

        Args:
            is_due: false at the end where another worker does it.
        """
        yield
        if not is_due:
            return
        try:
            if not self._tracker.has(STUDY):
                return
            self.describe(is_running=False)
            if self._config.tracking.report and not is_stopping():
                self._log(self._facts(is_running=False))
        except Exception as error:  # whatever a picture or a page runs into, it must not keep a study from its end
            self._say("the report is", error)

    def _log(self, facts: Facts) -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = figures(facts)
            for one in found.failed:
                self._events.write("note", message=f"the picture {one.name} is left out: {one.reason}")
            for name, drawn in sorted(found.files.items()):
                file = Path(folder) / f"{name}.png"
                file.write_bytes(drawn)
                self._tracker.log_file(STUDY, file, PICTURES)
            made = content(facts, found.blocks)
            for name, text in (("report.html", html(made)), ("report.md", markdown(made, f"../{PICTURES}"))):
                file = Path(folder) / name
                file.write_text(text, encoding="utf-8")
                self._tracker.log_file(STUDY, file, REPORT)

    def _say(self, what: str, error: Exception) -> None:
        words = str(error) if isinstance(error, SweeperError | OSError) else type(error).__name__
        said = f"{what} not logged: {words}"
        if said not in self._failed:  # a defect would be met at the end of each trial
            self._failed.add(said)
            logger.warning("%s not logged", what, exc_info=error)
            self._events.write("note", message=said)
