"""Four workers on one study in a PostgreSQL server, killed at random; 500 trials under `make test-all`."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy

from sweeper.paths import Home
from tests.search.short_trials import Crew, Study, Worker

WORKERS = 4
TRIALS, KILLS = (500, 40) if os.environ.get("SWEEPER_TESTS") == "all" else (100, 8)


def claims(workers: list[Worker]) -> dict[int, list[tuple[float, float]]]:
    """From when to when each trial was worked on, by whom it was: a claim ends where its worker tells, or is killed."""
    found: dict[int, list[tuple[float, float]]] = {}
    for worker in workers:
        held: dict[int, float] = {}
        for line in worker.lines():
            if line["event"] == "asked":
                held[line["number"]] = line["at_s"]
            elif line["event"] == "tells":
                found.setdefault(line["number"], []).append((held.pop(line["number"]), line["at_s"]))
        for number, since_s in held.items():
            assert worker.killed_s is not None  # whoever is not killed tells what it asked for
            found.setdefault(number, []).append((since_s, worker.killed_s))
    return {number: sorted(spans) for number, spans in found.items()}


@pytest.mark.timeout(900)
def test_no_trial_is_claimed_twice_and_none_is_told_twice(home: Home, postgresql: str, tmp_path: Path) -> None:
    store = Home(home.root, postgresql)
    study = Study(store, ("study=demo", "sampler=random", f"search.trials={TRIALS}", "search.lease_s=60"))
    study.create()  # four that make the tables at once are tested elsewhere
    chooser, crew, kills = random.Random(4), Crew(study, tmp_path), 0
    try:
        for _ in range(WORKERS):
            crew.start()
        began_s = time.monotonic()
        while running := crew.running:
            assert time.monotonic() - began_s < 600, "the study did not come to its end"
            if kills < KILLS and sum(len(worker.lines()) for worker in crew.workers) > 3 * TRIALS * kills / (KILLS + 1):
                time.sleep(chooser.uniform(0.0, 0.05))
                if chooser.choice(running).kill():
                    kills += 1
                    crew.start()
            time.sleep(0.01)
        took_s = time.monotonic() - began_s
    finally:
        crew.close()

    seen = study.seen()
    assert kills == KILLS
    assert [trial.number for trial in seen.trials] == list(range(TRIALS))
    assert seen.counts() == {"COMPLETE": TRIALS}
    lines = [line for worker in crew.workers for line in worker.lines()]
    assert [line for line in lines if line["event"] == "lost"] == []
    for spans in claims(crew.workers).values():
        assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans
    told = [line for line in lines if line["event"] == "told"]
    assert max(Counter(line["number"] for line in told).values()) == 1
    assert len(told) >= TRIALS - KILLS  # a worker may be killed after it has told, and before it writes that down
    assert all(seen.trials[line["number"]].value == line["value"] for line in told)
    assert sum(bool(worker.lines()) for worker in crew.workers) > WORKERS
    engine = sqlalchemy.create_engine(postgresql)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM sweeper_leases WHERE trial_id >= 0")) == 0
    engine.dispose()
    again = sum(len(spans) - 1 for spans in claims(crew.workers).values())
    print(f"{TRIALS} trials, {WORKERS} workers, {kills} killed, {again} trials asked again, {took_s:.1f} s")
