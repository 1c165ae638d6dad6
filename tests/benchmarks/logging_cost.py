"""What logging costs a trial: a study that is tracked by MLflow beside one that is tracked in memory, in one process.

    python tests/benchmarks/logging_cost.py [--server] [--pairs N] [--examples N] [--model smollm2-135m]

The same trials train in both, in turns, over one base. Beside the whole, the seconds that the worker's own thread spent
in calls of the tracker, and the processor seconds of the thread that writes, are measured by themselves: on a machine
that others use, the difference of two whole studies is mostly noise. The store is SQLite; with --server, an MLflow
server on the same machine. Minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.data import tickets
from sweeper.paths import Home
from sweeper.search.views import view
from sweeper.tracking.mlflow_server import ServerTracker
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import Place
from sweeper.tracking.tracker import Tracker
from sweeper.tracking.writer import Writer
from sweeper.worker import session
from sweeper.worker.session import Session
from sweeper.worker.workbench import set_up
from tests.memory_tracker import MemoryTracker
from tests.tracking.server import plain_server

STUDY = [
    *("study=demo", "search.trials=4", "engine.slots=4", "confirmation.top=0", "pruner=none", "sampler=random"),
    *("retention.choices=null", "retention.passages=null", "gpu=free", "data=files"),
]
ROWS = {"train": 640, "validation": 60, "test": 12}
CALLS = ("start", "log", "log_datasets", "log_file", "drop_files", "end", "flush", "settle", "states", "arrange")


class Spent:
    """Seconds of the worker's thread in the tracker, and processor seconds of the thread that writes."""

    def __init__(self) -> None:
        self.calling_s = self.writing_s = 0.0

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                if threading.current_thread() is threading.main_thread():
                    self.calling_s += time.perf_counter() - begun

        return timed

    @contextmanager
    def watching(self, tracker: Tracker) -> Iterator[None]:
        for name in CALLS:
            setattr(tracker, name, self.counted(getattr(tracker, name)))
        attempt = Writer._try

        def timed(writer: Writer, do: Callable[[], Any]) -> Any:
            begun = time.thread_time()
            try:
                return attempt(writer, do)
            finally:
                self.writing_s += time.thread_time() - begun

        Writer._try = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            Writer._try = attempt  # type: ignore[method-assign]


def one(make: Callable[[Home], Tracker], home: Home, config: Config, database: Path | None) -> dict[str, float]:
    """Runs the study once, in a store of its own."""
    shutil.rmtree(home.root)
    home.create()
    if database is not None:
        shutil.copy(database, home.root)
    paths = home.study("demo")
    paths.create()
    check.save(config, paths)
    tracker, spent = make(home), Spent()
    before = time.process_time(), time.perf_counter()
    with spent.watching(tracker):
        outcome = Session(paths, tracker, lambda: False).run()
    assert outcome == {"status": "finished"}, outcome
    found = {"cpu_s": time.process_time() - before[0], "wall_s": time.perf_counter() - before[1]}
    trials = view(home, "demo").trials
    pack_s = max(trial.duration_s or 0.0 for trial in trials)
    return {**found, "trials_s": pack_s, "calling_s": spent.calling_s, "writing_s": spent.writing_s}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--examples", type=int, default=640)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, made = Home(Path(folder) / "store"), Home(Path(folder) / "migrated")
        for each in (home, made):
            each.create()
        MlflowTracker(made, "unused")
        for split, rows in tickets.splits().items():
            lines = [json.dumps(row) for row in rows[: ROWS[split]]]
            (Path(folder) / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        configs: list[Config] = []
        compose.main(
            [
                *STUDY,
                f"model={asked.model}",
                f"train.examples={asked.examples}",
                f"data.path={folder}",
                f"store.home={home.root}",
            ],
            configs.append,
        )
        bench = set_up(configs[0], home)
        session.set_up = lambda *_: bench  # type: ignore[assignment]
        run = partial(one, home=home, config=configs[0], database=made.mlflow_file)
        in_memory = lambda _: MemoryTracker()  # noqa: E731
        in_store = lambda home: MlflowTracker(home, "demo", patience_s=300)  # noqa: E731
        if asked.pairs > 1:
            run(in_memory)  # what is slower for the first time
        if asked.server:
            (Path(folder) / "server").mkdir()
            with plain_server(Path(folder) / "server", made.mlflow_file) as server:
                number = iter(range(1000))
                report(
                    asked.pairs,
                    run,
                    in_memory,
                    lambda home: ServerTracker(home, "demo", Place(server.uri, f"bench-{next(number)}"), "a" * 32, 300),
                )
        else:
            report(asked.pairs, run, in_memory, in_store)


def report(pairs: int, run: Callable[..., dict[str, float]], *makers: Callable[[Home], Tracker]) -> None:
    rows: list[list[dict[str, float]]] = [[], []]
    for _ in range(pairs):
        for found, make in zip(rows, makers, strict=True):
            found.append(run(make))
            where = "memory" if found is rows[0] else "MLflow"
            print(f"  {where}:", {name: round(value, 3) for name, value in found[-1].items()}, flush=True)
    middle = [{name: statistics.median(row[name] for row in found) for name in found[0]} for found in rows]
    memory, mlflow = middle
    for name in ("cpu_s", "wall_s"):
        more = mlflow[name] / memory[name] - 1
        print(f"{name}: {memory[name]:.2f} in memory, {mlflow[name]:.2f} by MLflow: {more:+.1%}")
    for name in ("calling_s", "writing_s"):
        for whole in ("wall_s", "trials_s"):
            print(f"{name}: {mlflow[name]:.3f}, {mlflow[name] / mlflow[whole]:.2%} of {whole} {mlflow[whole]:.1f}")


if __name__ == "__main__":
    main()
