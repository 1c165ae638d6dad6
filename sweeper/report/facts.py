"""All that a report is made of, read from the store at one moment. Reading changes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import yaml

from sweeper import outcome
from sweeper.config.schema import Config
from sweeper.errors import ERRORS, StoreError
from sweeper.money.statement import Statement
from sweeper.paths import Home, StudyPaths
from sweeper.redaction import redacted
from sweeper.report.reading import cost_of, studied
from sweeper.search.ended import ENDED, holds
from sweeper.search.looks import Looks, looks
from sweeper.search.running import running
from sweeper.search.views import StudyView, TrialView, is_finished


@dataclass(frozen=True)
class Facts:
    """A study as it stands.

    Attributes:
        is_running: whether a launcher or a worker has it.
        leaves_home: whether what is said of it goes to others at once, who need not know this machine's folders.
        now: when it was read.
    """

    paths: StudyPaths
    seen: StudyView
    config: Config
    cost: Statement
    is_running: bool
    leaves_home: bool = False
    now: datetime = field(default_factory=lambda: datetime.now().astimezone())

    @property
    def name(self) -> str:
        return self.seen.name

    @property
    def metric(self) -> str:
        return self.config.objective.metric_name

    @property
    def best(self) -> TrialView | None:
        return self.seen.best

    @cached_property
    def is_finished(self) -> bool:
        return is_finished(self.seen, self.config)

    @property
    def ended(self) -> dict[str, Any] | None:
        """Why the search ended before its total, where that still holds."""
        found: dict[str, Any] | None = self.seen.attributes.get(ENDED)
        return found if holds(found, self.config) else None

    @property
    def state(self) -> str:
        """Running, finished, ended early, interrupted or not begun; with how far it is."""
        counted = sum(trial.counts for trial in self.seen.trials)
        so_far = f"{counted} of {self.config.search.trials} trials have ended ({self.seen.summary()})"
        at = f"as of {self.now:%Y-%m-%d %H:%M:%S %Z}"
        if self.is_running:
            return f"The study is running: {so_far}, {at}."
        if self.is_finished and self.ended is not None:
            return f"The study ended before its total: {self.ended['message']}. {so_far[0].upper()}{so_far[1:]}, {at}."
        if self.is_finished:
            return f"The study is finished: {so_far}, {at}."
        if not self.seen.trials:
            return f"The study has no trials yet, {at}."
        return f"The study is not finished, and the same launch goes on with it: {so_far}, {at}."

    @cached_property
    def looks(self) -> Looks:
        """How often the test split was used."""
        return looks(self.seen.attributes, self.paths)

    @cached_property
    def data(self) -> dict[str, Any]:
        """What was found in the rows; empty for a study from before that was kept."""
        found: dict[str, Any] = _json(self) or {}
        return found

    @cached_property
    def changes(self) -> list[dict[str, Any]]:
        """What later launches changed, an entry each."""
        try:
            text = self.paths.changes.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return yaml.safe_load(text) or []

    @cached_property
    def last_error(self) -> str | None:
        """What stopped the last session, in a line: no trace, no secret; None where it did not end by an error."""
        found = outcome.last(self.paths)
        if found is None or found.status != outcome.ERROR or self.is_running:
            return None
        if found.kind not in ERRORS:  # a defect's message may quote a row
            return f"{found.kind}: message and trace are in the study's {found.log.relative_to(self.paths.root)}"
        return f"{found.kind}: {redacted(str(found.message)).strip().partition(chr(10))[0]}"


def _json(facts: Facts) -> Any:
    try:
        return json.loads(facts.paths.data.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(
            f"{facts.paths.data} must be JSON, but it cannot be read: {error}; without that file a report goes on"
        ) from None


def read(home: Home, name: str) -> Facts:
    """Reads a study.

    Raises:
        StoreError: if there is none of that name, or a file of it cannot be read.
        ConfigError: if its settings cannot be read.
    """
    seen, config = studied(home, name)
    paths = home.study(name)
    return Facts(paths, seen, config, cost_of(home, seen, config), running(paths) is not None)
