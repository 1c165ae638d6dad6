"""What a worker learns of its memory while it works."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sweeper.memory.calibration import Calibration, Machine
from sweeper.memory.guard import Guard
from sweeper.memory.runtime import known_runtime
from sweeper.units import MIB
from sweeper.worker.memory import MemoryLog
from tests.memory.test_guard import TOTAL, Card, Tensors


def test_a_runtime_that_grew_counts_from_then_on_here_and_in_plans(tmp_path: Path) -> None:
    limits: list[int] = []
    card = Card(Tensors(), TOTAL, 100 * MIB)
    card.limit = limits.append  # type: ignore[method-assign]
    guard = Guard(card)
    calibration = Calibration(0.05, Machine("a card", "", "", ""), tmp_path / "calibration.json")
    forecast: Any = SimpleNamespace(runtime_bytes=guard.base_bytes, calibration=calibration)
    planner: Any = None
    log = MemoryLog(guard, planner, forecast)
    log.measure_runtime()
    assert (forecast.runtime_bytes, limits, known_runtime(tmp_path, "a card")) == (100 * MIB, [], None)
    card.beside_bytes = 350 * MIB
    log.measure_runtime()
    assert forecast.runtime_bytes == known_runtime(tmp_path, "a card") == 350 * MIB
    assert limits == [TOTAL - 350 * MIB]
