"""How many trials a second one study's workers can ask for and tell, on SQLite and on PostgreSQL; nothing is trained.

    python tests/benchmarks/ask_tell.py [--trials 120] [--workers 1 2 4] [--storages sqlite postgresql] \\
        [--sampler random]

Real processes, all on this machine; PostgreSQL is a server of its own, with fsync as people have it. Each trial is
asked, reported once and told, with its lease taken, renewed and given back.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sweeper.paths import Home
from tests.postgresql import postgresql_server
from tests.search.short_trials import Crew, Study

PATIENCE_S = 900


def measure(url: str | None, folder: Path, workers: int, trials: int, sampler: str) -> list[Any]:
    """A row: trials a second by all workers together, and milliseconds of one ask and one tell."""
    home = Home(folder, url)
    home.create()
    # A study of its own for each count: what others left must not be read.
    name, settings = f"study.name=workers-{workers}", ("search.lease_s=60", f"search.trials={trials}")
    study = Study(home, ("study=demo", name, f"sampler={sampler}", *settings), longest_s=0.0)
    study.create()
    crew = Crew(study, folder)
    try:
        for _ in range(workers):
            crew.start()
        for worker in crew.workers:
            worker.process.join(PATIENCE_S)
            if worker.process.exitcode != 0:
                raise RuntimeError(f"a worker must end by itself, but its exit code is {worker.process.exitcode}")
    finally:
        crew.close()
    lines = [line for worker in crew.workers for line in worker.lines()]
    for worker in crew.workers:
        worker.file.unlink(missing_ok=True)
    times = sorted(line["at_s"] for line in lines)
    asks, tells = ([line["took_s"] for line in lines if line["event"] == event] for event in ("asked", "told"))
    assert len(tells) == trials
    # The first ask begins before its line is written; the processes themselves start before that.
    took_s = times[-1] - times[0] + asks[0]
    return [workers, trials / took_s, *(1000 * statistics.median(one) for one in (asks, tells))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--storages", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--sampler", default="random")
    chosen = parser.parse_args()
    print(
        f"| storage | workers | trials/s | ask, ms | report and tell, ms |  ({chosen.sampler}, {chosen.trials} trials)"
    )
    print("|---|---|---|---|---|")
    for storage in chosen.storages:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = None
            if storage == "postgresql":
                url = stack.enter_context(postgresql_server(is_durable=True)).url
            for workers in chosen.workers:
                _, rate, ask_ms, tell_ms = measure(url, folder, workers, chosen.trials, chosen.sampler)
                print(f"| {storage} | {workers} | {rate:.1f} | {ask_ms:.0f} | {tell_ms:.0f} |", flush=True)


if __name__ == "__main__":
    main()
