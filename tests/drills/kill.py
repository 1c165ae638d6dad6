"""kill -9 of launcher, worker, MLflow server or PostgreSQL at random moments of real studies, so many times.

    python tests/drills/kill.py --rounds 100 --seed 0 --storage postgresql --tracking server --workers 2 --to drill.md

In each round a moment is chosen and waited for, then a victim among those that run; it is killed and, where it is a
server, started again, and the study is launched again where its launcher has ended. After each round, what had been
told must not have changed; when a study ends, all its stores must agree, and the next one begins. Every wait has a
limit. The choices come from the seed; what they meet depends on the machine. The drill starts servers of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from optuna.trial import FrozenTrial, TrialState

from sweeper.data import tickets
from sweeper.events import EventReader
from sweeper.paths import Home
from tests.conftest import SHORT
from tests.drills.stores import Stores
from tests.postgresql import PostgresqlServer, postgresql_server
from tests.tracking.server import PlainServer, plain_server

MOMENT_S, END_S, STOP_S = 240, 900, 60  # limits: until a moment comes, a study ends, a killed process is gone
NOTICE_S = 3.0  # in which a launcher that ends with its worker has done so
AWAY_S = 3.0  # a server that was killed is away no longer than that
MOST_LAUNCHES = 6  # after one kill; more have another reason than that
MOMENTS: dict[str, tuple[str | None, float, float]] = {  # the event that each follows, and by how many seconds
    "start-up": (None, 0.2, 8.0),
    "training": ("tick", 0.0, 1.0),
    "evaluation": ("evaluating", 0.0, 0.3),
    "tell": ("evaluation", 0.0, 0.15),
    "refill": ("trial_ended", 0.0, 0.3),
    "confirmation": ("confirming", 0.0, 3.0),
    "end": ("testing", 0.0, 1.0),
}
WEIGHTS = (3, 6, 3, 3, 3, 1, 1)  # how often each is chosen: the last two bring a study to its end
STUDY = ("train.examples=96", "checkpoint.every_s=0.5", "engine.slots=3", "confirmation.top=1", "confirmation.seeds=1")


@dataclass
class Round:
    """One kill, and what came of it until the next, or until the end of its study."""

    study: str
    victim: str
    moment: str
    delay_s: float  # after the event that the moment is known by
    told: int  # trials that had ended
    in_flight: int  # those that were at work
    launches: int = 0
    resumed: int = 0  # trainings that went on from a checkpoint
    again: int = 0  # trainings that began again
    lost_s: float = 0.0  # device seconds that were booked as lost
    duration_s: float = 0.0


class Drill:
    """Studies that are killed one after the other, in one store.

    Args:
        data: a folder with the splits that they train on.
        trials: of each study.
        postgresql: the server that trials and ledger are in; None: the store.
        mlflow: the server that the runs go to; None: the store.
        workers: of each study; None: as its configuration says.
    """

    def __init__(
        self,
        home: Home,
        data: Path,
        seed: int,
        trials: int,
        postgresql: PostgresqlServer | None = None,
        mlflow: PlainServer | None = None,
        workers: int | None = None,
    ) -> None:
        self._home, self._trials, self._postgresql, self._mlflow = home, trials, postgresql, mlflow
        self._overrides = [*SHORT, *STUDY, f"search.trials={trials}", f"data.path={data}", "confirm=false"]
        self._overrides += [f"store.optuna={postgresql.url}"] if postgresql is not None else []
        self._overrides += [f"tracking.uri={mlflow.uri}"] if mlflow is not None else []
        self._overrides += [f"cluster.workers={workers}"] if workers is not None else []
        self._chooser = random.Random(seed)
        self._log = home.root / "launches.log"
        self.rounds: list[Round] = []
        self.studies: list[dict[str, Any]] = []

    def run(self, rounds: int) -> None:
        """Until so many have been killed, and the last study has come to its end."""
        while len(self.rounds) < rounds:
            self._begin(f"drill-{len(self.studies)}")
            try:
                self._study(rounds)
            finally:
                self._stop()

    def _begin(self, name: str) -> None:
        self._name = name
        url = self._postgresql.url if self._postgresql is not None else self._home.optuna_url
        uri = self._mlflow.uri if self._mlflow is not None else self._home.mlflow_url
        self._stores = Stores(self._home.study(name), url, uri)
        self._events = EventReader(self._stores.paths.events, 0)
        self._before: dict[int, FrozenTrial] = {}
        self._lost_s = 0.0
        self._started: set[tuple[str, int]] = set()  # the trainings that have begun
        self._launcher: subprocess.Popen[bytes] | None = None
        self._launches = 0  # since the last kill
        self._current: Round | None = None
        self._since_s = time.monotonic()

    def _study(self, rounds: int) -> None:
        """One study, from its first launch to its end."""
        began_s, first, has_ended = time.monotonic(), len(self.rounds), False
        while not has_ended and len(self.rounds) < rounds:
            has_ended = self._round()
        if not has_ended:
            self._follow(None, END_S)
        self._account()
        figures = self._stores.verify(self._trials, self._before)
        figures |= {"kills": len(self.rounds) - first, "duration_s": round(time.monotonic() - began_s, 1)}
        self.studies.append(figures)
        print(f"{self._name} has ended: {figures}", flush=True)

    def _round(self) -> bool:
        """Waits for a moment and kills; returns whether the study had come to its end before."""
        moment = self._chooser.choices([*MOMENTS], WEIGHTS)[0]
        event, least_s, most_s = MOMENTS[moment]
        delay_s = self._chooser.uniform(least_s, most_s)
        if self._follow(event or "", MOMENT_S if event else 0.0):
            return True
        time.sleep(delay_s)
        self._account()
        states = [trial.state for trial in self._stores.trials()]
        victims = self._victims()
        if self._launcher is None or self._launcher.poll() == 0 or not victims:
            return False  # there is another moment, or no more
        victim = self._chooser.choice(sorted(victims))
        victims[victim]()
        in_flight, told = states.count(TrialState.RUNNING), sum(state.is_finished() for state in states)
        self._current = Round(self._name, victim, moment, round(delay_s, 2), told, in_flight)
        self._since_s, self._launches = time.monotonic(), 0
        self.rounds.append(self._current)
        print(f"round {len(self.rounds)}: {victim} killed at {moment}, {told} of {self._trials} told", flush=True)
        self._notice()
        return False

    def _follow(self, event: str | None, limit_s: float) -> bool:
        """Follows the study, launched again whenever its launcher has ended, until an event comes.

        Args:
            event: the kind that is waited for; None: the study's end.
            limit_s: no longer than that; 0: no event is waited for.

        Returns:
            Whether the study has come to its end.
        """
        self._read()
        deadline = time.monotonic() + limit_s
        while True:
            if self._launcher is not None and self._launcher.poll() == 0:
                return True
            if self._launcher is None or self._launcher.poll() is not None:
                self._launch()
            if not limit_s or event in self._read():
                return False
            assert time.monotonic() < deadline, f"{event or 'the end'} did not come in {limit_s} s: {self._said()}"
            time.sleep(0.02)

    def _read(self) -> set[str]:
        """The kinds of events of trials and of the study since the last look; counts what trains again."""
        found = set()
        for event in self._events.new():
            if "kind" not in event:
                found.add(event["event"])
            if event["event"] in ("trial_started", "side_started"):
                training = (event["event"], event["number"])
                if self._current is not None:
                    self._current.resumed += event["step"] > 0
                    self._current.again += event["step"] == 0 and training in self._started
                self._started.add(training)
        return found

    def _account(self) -> None:
        """What had been told must not have changed; says what the last kill has cost."""
        self._read()
        after, lost_s = self._stores.told(), self._stores.lost_s()
        changed = [number for number, trial in self._before.items() if after.get(number) != trial]
        assert not changed, f"what was told must stay, but trials {changed} of {self._name} have changed"
        if self._current is not None:
            self._current.lost_s = round(self._current.lost_s + lost_s - self._lost_s, 3)
            self._current.duration_s = round(time.monotonic() - self._since_s, 1)
        self._before, self._lost_s = after, lost_s

    # Processes

    def _launch(self) -> None:
        self._launches += 1
        assert self._launches <= MOST_LAUNCHES, f"{self._name} ends whenever it is launched: {self._said()}"
        if self._current is not None:
            self._current.launches += 1
        with self._log.open("ab") as log:
            self._launcher = subprocess.Popen(
                [sys.executable, "-m", "sweeper", "launch", *self._overrides, f"study.name={self._name}"],
                env={**os.environ, "SWEEPER_HOME": str(self._home.root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _victims(self) -> dict[str, Callable[[], None]]:
        """Whoever may be killed at this moment, by what it is, and how that is done."""
        found: dict[str, Callable[[], None]] = {}
        if self._launcher is not None and self._launcher.poll() is None:
            found["launcher"] = self._kill_launcher
            if workers := self._workers():
                found["worker"] = lambda: _kill(self._chooser.choice(workers))
        if (mlflow := self._mlflow) is not None:
            found["MLflow server"] = lambda: self._restart(mlflow)
        if (postgresql := self._postgresql) is not None:
            found["PostgreSQL"] = lambda: self._restart(postgresql)
            if backends := postgresql.backends():
                found["PostgreSQL backend"] = lambda: _kill(self._chooser.choice(backends))
        return found

    def _workers(self) -> list[psutil.Process]:
        assert self._launcher is not None
        found = []
        for child in psutil.Process(self._launcher.pid).children():
            with suppress(psutil.NoSuchProcess):
                if "sweeper.worker" in child.cmdline():
                    found.append(child)
        return found

    def _kill_launcher(self) -> None:
        """What it leaves ends by itself, or is waited for by the next."""
        assert self._launcher is not None
        self._launcher.kill()
        self._launcher.wait(STOP_S)

    def _restart(self, server: PlainServer | PostgresqlServer) -> None:
        server.kill()
        time.sleep(self._chooser.uniform(0.0, AWAY_S))
        server.start()

    def _notice(self) -> None:
        """Gives a launcher that ends with what was killed the time to do so."""
        assert self._launcher is not None
        with suppress(subprocess.TimeoutExpired):
            self._launcher.wait(NOTICE_S)

    def _stop(self) -> None:
        """Nothing of a study runs on, whatever the drill has come to."""
        for pid in self._stores.processes():
            with suppress(psutil.NoSuchProcess):
                _kill(psutil.Process(pid))
        if self._launcher is not None:
            self._launcher.wait(STOP_S)

    def _said(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        return f"after {self._current}, the launcher said last:\n" + "\n".join(text.splitlines()[-40:])


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):  # it may be left to be collected, or have ended
        process.kill()
        process.wait(STOP_S)


def table(rounds: list[Round]) -> str:
    """What was killed when, in Markdown."""
    groups: dict[tuple[str, str], list[Round]] = defaultdict(list)
    for one in rounds:
        groups[one.victim, one.moment].append(one)
    lines = [
        "| killed | at | times | in flight | launches | from checkpoints | began again | lost, device s | to the next "
        "kill or the end, s (median) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = {moment: place for place, moment in enumerate(MOMENTS)}
    for (victim, moment), own in sorted(groups.items(), key=lambda item: (item[0][0], order[item[0][1]])):
        sums = [sum(getattr(one, name) for one in own) for name in ("in_flight", "launches", "resumed", "again")]
        lost_s, median_s = sum(one.lost_s for one in own), statistics.median(one.duration_s for one in own)
        cells = [victim, moment, len(own), *sums, f"{lost_s:.1f}", f"{median_s:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def few_tickets(folder: Path) -> Path:
    """A small part of the bundled tickets."""
    folder.mkdir()
    for split, rows in tickets.splits().items():
        lines = [json.dumps(row) for row in rows[: 96 if split == "train" else 36]]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def mlflow_server(folder: Path) -> AbstractContextManager[PlainServer]:
    """A server on a database of its own."""
    from sweeper.tracking.mlflow_tracker import MlflowTracker

    empty = Home(folder / "empty")
    empty.create()
    MlflowTracker(empty, "unused")  # makes the tables
    return plain_server(folder, empty.mlflow_file)


def write(drill: Drill, seed: int, options: str, took_s: float, file: Path) -> None:
    """Writes what came of a drill as Markdown, and every round as JSON beside it."""
    file = file.with_suffix(".md")
    held = sum(one["trials"] for one in drill.studies)
    file.write_text(
        f"# kill -9, {len(drill.rounds)} times\n\n`python tests/drills/kill.py {options}`: {len(drill.studies)} "
        f"studies of {held} trials in {took_s / 60:.0f} minutes. Each came to exactly its total, no trial was lost "
        "or told twice, what had been told did not change, and Optuna, MLflow, ledger and disk agreed.\n\n"
        f"{table(drill.rounds)}\n",
        encoding="utf-8",
    )
    rounds = [asdict(one) for one in drill.rounds]
    found = {"seed": seed, "took_s": round(took_s, 1), "studies": drill.studies, "rounds": rounds}
    file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=16, help="of each study")
    parser.add_argument("--storage", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--tracking", choices=("store", "server"), default="store")
    parser.add_argument("--workers", type=int, help="of each study; default: as its configuration says")
    parser.add_argument("--to", type=Path, help="FILE.md; every round goes to FILE.json")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends it gets its servers ended too
    print(f"seed {chosen.seed}", flush=True)
    began_s = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-drill-")))
        is_shared, is_served = chosen.storage == "postgresql", chosen.tracking == "server"
        postgresql = stack.enter_context(postgresql_server(is_durable=True)) if is_shared else None
        (folder / "server").mkdir()
        mlflow = stack.enter_context(mlflow_server(folder / "server")) if is_served else None
        home = Home(folder / "store")
        home.create()
        data = few_tickets(folder / "data")
        drill = Drill(home, data, chosen.seed, chosen.trials, postgresql, mlflow, chosen.workers)
        try:
            drill.run(chosen.rounds)
        finally:  # also of one that has failed
            print(table(drill.rounds))
    took_s = time.monotonic() - began_s
    print(f"{len(drill.studies)} studies came to exactly their totals in {took_s / 60:.0f} minutes")
    if chosen.to is not None:
        write(drill, chosen.seed, shlex.join(sys.argv[1:]), took_s, chosen.to)


if __name__ == "__main__":
    main()
