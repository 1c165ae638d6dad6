"""Workers of one study whose trials take milliseconds: real processes that ask, report and tell, and train nothing.

Each writes what it does to a file of its own, a line each, with the time of the clock that all processes of a machine
share. Workers are forked from a process that has imported everything, so that one which was killed is replaced at once.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.errors import LeaseLostError
from sweeper.paths import Home
from sweeper.search.asking import Asked
from sweeper.search.study import Search
from sweeper.search.views import StudyView, open_storage, read
from tests.search.conftest import RECORD, curve

POLL_S = 0.02


@dataclass(frozen=True)
class Study:
    """What all workers of a study are told.

    Attributes:
        longest_s: a trial takes no time at least, and so much at most.
    """

    home: Home
    overrides: tuple[str, ...]
    longest_s: float = 0.02

    def config(self) -> Config:
        found: list[Config] = []
        compose.main(list(self.overrides), found.append)
        return found[0]

    def search(self) -> Search:
        return Search(self.home, self.config())

    def create(self) -> None:
        """Makes the study and its tables."""
        self.search().engine.dispose()

    def seen(self) -> StudyView:
        """The study as it stands."""
        storage = open_storage(self.home)
        try:
            return read(storage, self.config().study.name)
        finally:
            storage.engine.dispose()


def score(asked: Asked) -> float:
    """What a trial comes to, whoever trains it."""
    return random.Random(str(sorted(asked.params.items()))).random()


def work(study: Study, file: Path) -> None:
    """One worker: trials one after the other until the study has its total."""
    search, chance = study.search(), random.Random(str(file))
    search.release_told()
    with search.renewing(), file.open("a", encoding="utf-8") as log:

        def note(event: str, number: int, **more: Any) -> None:
            line = {"event": event, "number": number, "at_s": time.monotonic(), **more}
            log.write(json.dumps(line) + "\n")
            log.flush()

        while True:
            before_s = time.monotonic()
            asked = search.ask()
            if asked is None:
                if search.is_complete:
                    return
                time.sleep(POLL_S)  # the last trials are in flight elsewhere, or their worker has just been killed
                continue
            note("asked", asked.number, took_s=time.monotonic() - before_s)
            time.sleep(chance.uniform(0, study.longest_s))
            value, before_s = score(asked), time.monotonic()
            try:
                if search.report(asked.number, curve(value / 2), may_prune=False):
                    raise AssertionError("nothing may be pruned")
                note("tells", asked.number)
                search.complete(asked.number, value, {**RECORD, "curve": curve(value / 2)}, {})
            except LeaseLostError as error:
                note("lost", asked.number, message=str(error))
                search.abandon(asked.number)
                continue
            note("told", asked.number, value=value, took_s=time.monotonic() - before_s)


@dataclass
class Worker:
    """A worker, and what it wrote."""

    process: BaseProcess
    file: Path
    killed_s: float | None = None

    def kill(self) -> bool:
        """Ends it without a word; False where it had ended by itself."""
        self.killed_s = time.monotonic()
        self.process.kill()
        self.process.join(60)
        if self.process.exitcode == 0:
            self.killed_s = None
        return self.killed_s is not None

    def lines(self) -> list[dict[str, Any]]:
        """What it did; the line that it was killed over is left out."""
        if not self.file.is_file():
            return []
        text = self.file.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Crew:
    """The workers of one study, those included that are gone."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder = study, folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self.workers: list[Worker] = []

    @property
    def running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.process.is_alive()]

    def start(self) -> None:
        file = self._folder / f"worker-{len(self.workers)}.jsonl"
        process = self._context.Process(target=work, args=(self._study, file), daemon=True)
        process.start()
        self.workers.append(Worker(process, file))

    def close(self) -> None:
        """Nothing of it runs any more."""
        for worker in self.running:
            worker.kill()
