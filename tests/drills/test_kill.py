"""A short kill drill on the store alone; `tests/drills/kill.py` has servers to kill, and many more rounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.paths import Home
from tests.drills.kill import MOMENTS, Drill, table

KILLS, TRIALS = (30, 16) if os.environ.get("SWEEPER_TESTS") == "all" else (4, 6)


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("known_formulas")
def test_a_study_survives_being_killed(home: Home, few_tickets: Path) -> None:
    drill = Drill(home, few_tickets, seed=9, trials=TRIALS)
    drill.run(KILLS)
    print(table(drill.rounds))
    assert len(drill.rounds) == KILLS
    assert {one.victim for one in drill.rounds} <= {"launcher", "worker"}
    assert {one.moment for one in drill.rounds} <= set(MOMENTS)
    assert sum(one["trials"] for one in drill.studies) == TRIALS * len(drill.studies)
    assert sum(one.resumed + one.again for one in drill.rounds) > 0  # or nobody was killed at work
