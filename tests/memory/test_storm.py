"""Memory runs out at any allocation, of any kind of work, again and again: nothing is lost."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from sweeper.errors import OutOfRoomError
from tests.memory.storm import PHASES, Rig

IS_WHOLE = os.environ.get("SWEEPER_TESTS") == "all"
COUNTS = {"device": 1000, "8bit": 300, "host": 300} if IS_WHOLE else {"device": 25, "8bit": 8, "host": 8}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("state", ["device", "8bit", "host"])
def test_failures_at_any_allocation_change_nothing(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A third of them come twice, and a third of those in the rescue's own first allocations."""
    rig = Rig(tmp_path, monkeypatch, state)  # type: ignore[arg-type]
    expected = rig.cycle()
    rig.saboteur.counts.clear()
    rig.cycle()
    sites = dict(rig.saboteur.counts)
    total = sum(sites.values())
    assert all(sites[phase] > 0 for phase in PHASES)
    draws = random.Random(1)
    struck: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    worst = 0.0
    for draw in range(COUNTS[state]):
        plan = [draws.randrange(total)]
        if draw % 3 == 0:
            plan.append(draws.randrange(total if draw % 9 else 20))
        try:
            got = rig.cycle(*plan)
        except OutOfRoomError:  # a trial would be pruned, and its reason told
            lost[rig.saboteur.struck[0]] += 1
            continue
        struck.update(rig.saboteur.struck)
        assert got.items == expected.items  # the effective batch
        assert got.choices == expected.choices
        error = float((got.gradients - expected.gradients).norm() / expected.gradients.norm())
        worst = max(worst, error)
        # A byte has 256 levels: another cut's rounding may tip a moment to the next one.
        tolerance = 0.05 if state == "8bit" else 1e-5
        assert float((got.weights - expected.weights).norm() / expected.weights.norm()) < tolerance
    with capsys.disabled():
        print(f"\n{state}: sites {sites}; struck {dict(struck)}; lost {dict(lost)}; worst gradient error {worst:.1e}")
    assert rig.broken == []
    assert sum(lost.values()) <= 0.01 * COUNTS[state]
    assert sum(struck.values()) >= COUNTS[state]
    assert worst < 1e-6


def test_what_can_never_be_done_is_given_up_with_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every allocation of the backward fails: chunks shrink to a row, layers are recomputed, then it ends."""
    rig = Rig(tmp_path, monkeypatch)
    rig.saboteur.only = "backward"
    with pytest.raises(OutOfRoomError, match=r"train: one row of \d+ tokens, .* 4 times it did not") as caught:
        rig.cycle(*[0] * 200)
    assert "GiB of its budget" in str(caught.value)
    assert rig.broken == []
    assert rig.pack.planner.rescues["train"] > 4
