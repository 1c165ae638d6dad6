"""How long things take: lines that are fitted to what was measured, and kept for the next plan."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from sweeper.money.pace import KEEP, Fit, Pace, keep_pace, key, known_pace
from sweeper.paths import Home


def test_a_line_is_found_in_noise() -> None:
    random.seed(1)
    fit = Fit()
    for _ in range(100):
        size = random.uniform(500, 2000)
        fit.add(size, (0.2 + size * 0.001) * random.uniform(0.9, 1.1))
    assert fit.seconds(1000.0) == pytest.approx(1.2, rel=0.05)
    assert fit.seconds(10_000.0, steps=10) == pytest.approx(12.0, rel=0.05)


def test_sizes_that_are_alike_say_what_a_unit_takes_alone() -> None:
    fit = Fit()
    for _ in range(5):
        fit.add(100.0, 2.0)
    assert fit.line() == (0.0, pytest.approx(0.02))
    assert fit.seconds(50.0) == pytest.approx(1.0)


def test_an_intercept_that_noise_has_made_does_not_count() -> None:
    """Ticks of one trial, all of about the same size: they say what a token takes, and nothing of a pack's ticks."""
    random.seed(2)
    intercepts = []
    for _ in range(200):
        fit = Fit()
        for _ in range(18):
            size = random.gauss(670, 65)
            fit.add(size, size * 0.0003 * random.gauss(1, 0.12))
        intercepts.append(fit.line()[0])
    assert sum(intercept > 0 for intercept in intercepts) <= 4
    sure = Fit()
    for size in (500, 600, 700, 800, 900):
        sure.add(size, 0.2 + size * 0.0003 + random.uniform(-0.001, 0.001))
    assert sure.line()[0] == pytest.approx(0.2, rel=0.1)


def test_neither_part_of_a_line_is_below_zero() -> None:
    falling, below = Fit(), Fit()
    for size, seconds in ((10, 3.0), (20, 2.0), (30, 1.0), (40, 1.0)):
        falling.add(size, seconds)
    for size, seconds in ((10, 0.1), (20, 1.0), (30, 2.5), (40, 3.5)):
        below.add(size, seconds)
    assert falling.line() == (pytest.approx(1.75), 0.0)
    assert below.line()[0] == 0.0
    assert below.line()[1] > 0.05


def test_what_is_older_fades() -> None:
    fit = Fit()
    for _ in range(int(KEEP) * 2):
        fit.add(10.0, 1.0)
    for _ in range(int(KEEP) * 4):  # the machine is twice as fast from here on
        fit.add(10.0, 0.5)
    assert fit.seconds(10.0) == pytest.approx(0.5, rel=0.05)
    assert fit.count <= KEEP + 1


def test_nothing_is_told_from_nothing() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Fit().seconds(1.0)
    assert not Pace().is_known
    assert Pace().scoring_s(0) == 0.0


def test_a_pace_is_kept(home: Home) -> None:
    pace = Pace(setup_s=3.5, step=(0.25, 0.002))
    for size in (1.0, 2.0, 4.0, 8.0):
        pace.tick.add(size, size)
        pace.rows.add(size, size)
    name = key("tiny", "float32", "nf4", "NVIDIA A10G / x", None, "classification")
    assert "/" not in name
    assert name != key("tiny", "float32", "nf4", "NVIDIA A10G / x", 2, "classification")
    keep_pace(home.pace, name, pace)
    assert known_pace(home.pace, name) == pace
    assert known_pace(home.pace, "other") is None
    pace.setup_s = 4.5
    keep_pace(home.pace, name, pace)
    assert known_pace(home.pace, name) == pace
    (home.pace / f"{name}.json").write_text("{half")
    assert known_pace(home.pace, name) is None


def test_a_pace_is_kept_where_there_is_no_folder_yet(tmp_path: Path) -> None:
    keep_pace(tmp_path / "new" / "pace", "a", Pace(setup_s=1.0))
    assert known_pace(tmp_path / "new" / "pace", "a") == Pace(setup_s=1.0)


@pytest.mark.parametrize("wrong", [math.inf, math.nan, -1.0])
def test_a_pace_that_no_clock_has_measured_counts_as_none(home: Home, wrong: float) -> None:
    for pace in (Pace(step=(0.1, wrong)), Pace(rows=Fit(count=2.0, x=wrong))):
        keep_pace(home.pace, "a", pace)
        assert known_pace(home.pace, "a") is None


def test_the_name_of_a_pace_says_what_it_belongs_to() -> None:
    assert key("qwen2.5-7b", "bfloat16", "nf4", "Tesla T4", None, "a/b") == "qwen2.5-7b_nf4_bfloat16_Tesla_T4_a_b"
    assert key("tiny", "float32", "nf4", "cpu", 2, "classification") == "tiny_nf4_float32_cpu_classification_2_threads"
