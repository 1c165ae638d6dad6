from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.memory.calibration import ENOUGH, KEPT, Calibration, Machine

CARD = Machine(device="NVIDIA L4", driver="580.95.05", attention="sdpa", dtype="torch.bfloat16")


def observed(ratios: list[float], margin: float = 0.05) -> Calibration:
    calibration = Calibration(margin)
    for ratio in ratios:
        calibration.observe(1000, ratio * 1000)
    return calibration


def test_the_margin_holds_until_there_are_enough_ratios() -> None:
    assert observed([]).factor() == 1.05
    assert observed([0.5] * (ENOUGH - 1)).factor() == 1.05
    assert observed([0.5] * ENOUGH).factor() == 1.0


def test_a_step_above_the_margin_counts_at_once() -> None:
    assert observed([0.5, 1.3]).factor() == pytest.approx(1.3)


def test_enough_ratios_are_bounded_by_three_deviations() -> None:
    ratios = [0.9, 1.1] * (ENOUGH // 2)  # a mean of 1 and a deviation of 0.1
    assert observed(ratios).factor() == pytest.approx(1.3)


def test_one_high_step_among_many_is_not_averaged_away() -> None:
    ratios = [0.9] * 200 + [1.5]
    assert statistics.fmean(ratios) + 3 * statistics.pstdev(ratios) < 1.1
    assert observed(ratios).factor() == pytest.approx(1.5)


@given(st.lists(st.floats(0.0, 3.0), max_size=2 * ENOUGH), st.floats(0.0, 1.0))
def test_a_bound_is_below_neither_one_nor_any_step(ratios: list[float], margin: float) -> None:
    calibration = observed(ratios, margin)
    assert calibration.factor() >= max(1.0, *calibration.ratios, 0.0)


def test_a_step_of_which_nothing_was_predicted_says_nothing() -> None:
    calibration = Calibration(0.05)
    calibration.observe(0, 1000)
    assert not calibration.ratios
    calibration.observe(1000, -10)  # others gave memory back in between
    assert list(calibration.ratios) == [0.0]


def test_ratios_are_kept_for_later_studies(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    calibration = Calibration.load(0.05, CARD, folder)
    assert (calibration.factor(), list(calibration.ratios)) == (1.05, [])
    calibration.save()
    assert not folder.exists()  # nothing is known, so there is nothing to keep
    for ratio in (1.25, 0.75):
        calibration.observe(1000, ratio * 1000)
    calibration.save()
    again = Calibration.load(0.05, CARD, folder)
    assert (list(again.ratios), again.factor()) == ([1.25, 0.75], 1.25)
    again.observe(1000, 500)
    again.save()
    assert list(Calibration.load(0.05, CARD, folder).ratios) == [1.25, 0.75, 0.5]


@pytest.mark.parametrize(
    "changes", [{"device": "NVIDIA H100"}, {"driver": "590.1"}, {"attention": "eager"}, {"dtype": "torch.float32"}]
)
def test_another_machine_begins_anew(tmp_path: Path, changes: dict[str, str]) -> None:
    calibration = Calibration.load(0.05, CARD, tmp_path)
    calibration.observe(1000, 1250)
    calibration.save()
    other = Calibration.load(0.05, replace(CARD, **changes), tmp_path)
    assert (other.factor(), other.file == calibration.file) == (1.05, False)
    other.observe(1000, 1500)
    other.save()
    assert Calibration.load(0.05, CARD, tmp_path).factor() == 1.25


def test_other_versions_of_what_allocates_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = Calibration.load(0.05, CARD, tmp_path)
    calibration.observe(1000, 1250)
    calibration.save()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert Calibration.load(0.05, CARD, tmp_path).factor() == 1.05


def test_only_the_latest_ratios_are_kept(tmp_path: Path) -> None:
    calibration = Calibration.load(0.05, CARD, tmp_path)
    for ratio in [2.0] * 8 + [1.0] * KEPT:
        calibration.observe(1000, ratio * 1000)
    assert calibration.factor() == 1.0
    calibration.save()
    again = Calibration.load(0.05, CARD, tmp_path)
    assert (len(again.ratios), again.factor()) == (KEPT, 1.0)


@pytest.mark.parametrize("text", ["", '{"ratios": [1.0, ', "[]", "{}"])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    calibration = Calibration.load(0.05, CARD, tmp_path)
    assert calibration.file is not None
    calibration.file.write_text(text)
    calibration = Calibration.load(0.05, CARD, tmp_path)
    assert calibration.factor() == 1.05
    calibration.observe(1000, 1250)
    calibration.save()
    assert Calibration.load(0.05, CARD, tmp_path).factor() == 1.25
