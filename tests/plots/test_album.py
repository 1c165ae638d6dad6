"""All pictures of a study together: which there are, that odd data is readable, and that many trials are fast."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sweeper.cli.main import main
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.money.account import statement
from sweeper.paths import Home
from sweeper.plots import album as album_module
from sweeper.plots.album import album
from sweeper.plots.picture import DARK, LIGHT, rendered
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason
from tests.launch.test_tables import scored, trial
from tests.learning.test_curve import curve as learning_curve
from tests.money.booked import PRICE, PRICED, ledger_of, stored
from tests.plots.conftest import course, inked
from tests.plots.test_confusion import PAIRS, keep

ORDER = [
    "interaction",
    "cost_front",
    "learning_curves",
    "confusion",
    "retention",
    "memory",
    "dollars",
    "importance",
    "learning_curve",
]
ATTRIBUTES = {
    "baseline": scored(0.1),
    "retention": {"constrains": "accuracy", "tolerance": 0.05, "sample": {"tolerance": 0.08}},
    "memory": {"budget_gib": 8.0},
    "learning_curve": learning_curve().as_dict(),
}
FATES = (None, None, None, Reason.PRUNER, Reason.DIVERGED, Reason.WRECKED)


def some(count: int, shaped: Callable[[float], float] = lambda value: value) -> StudyView:
    """A study of so many trials that has something for every picture."""
    return StudyView("demo", [_trial(number, shaped) for number in range(count)], ATTRIBUTES)


def _trial(number: int, shaped: Callable[[float], float]) -> TrialView:
    reason = FATES[number % len(FATES)]
    value = shaped(0.3 + 0.5 * (number * 0.618 % 1.0))
    lost = {"retention/drop": 0.1 * (number % 2), "retention/drop_se": 0.01}
    params = {"rank": 2 ** (2 + number % 4), "alpha_ratio": 1.0 + number % 2, "learning_rate": 1e-3 * (1 + number % 29)}
    return trial(
        number,
        value if reason is None else None,
        reason=reason,
        params=params,
        curve=course(*(value * share for share in ((0.5, 0.8, 1.0) if reason is None else (0.5,)))),
        metrics={**scored(value), **lost},
        constraints={"retention": lost["retention/drop"] - 0.08},
        solo_s=10.0 + number % 7,
        took={"vram_peak_gib": 3.0 + number % 5 / 10, "vram_predicted_gib": 3.5},
    )


@pytest.fixture
def config(composed_once: Any) -> Config:
    return composed_once("study=demo")


def test_every_picture_is_there_in_its_order(config: Config, home: Home) -> None:
    seen = some(40)
    assert seen.best is not None
    keep(home.study("demo"), PAIRS, number=seen.best.number)
    engine, _ = ledger_of(PRICE, "demo")
    found = album(home.study("demo"), seen, config, statement(engine, seen, PRICE)).pictures
    assert [one.name for one in found] == ORDER
    assert all(one.sentence.endswith(".") and one.title for one in found)
    for theme in (LIGHT, DARK):
        assert all(inked(one, theme) for one in found)
    for name in ORDER:
        assert f"| {name} |" in (album_module.__doc__ or "")


@pytest.mark.parametrize(
    "shaped",
    [
        lambda value: 0.5,
        lambda value: 1e300 * value,
        lambda value: -1e-9 * value,
        lambda value: 1e12 if value > 0.75 else value,
        lambda value: 0.0,
    ],
    ids=["equal", "huge", "tiny", "some far off", "zero"],
)
@pytest.mark.parametrize("count", [1, 15])
def test_odd_values_are_drawn_or_left_out(shaped: Any, count: int, config: Config, home: Home) -> None:
    seen = some(count, shaped)
    found = album(home.study("demo"), seen, config, None)
    assert {one.name for one in found.pictures} | {one.name for one in found.left_out} == set(ORDER)
    assert all(inked(one) for one in found.pictures)


def test_a_study_that_has_just_begun_or_has_nothing_complete(config: Config, home: Home) -> None:
    nothing = album(home.study("demo"), StudyView("demo", [], {}), config, None)
    assert (nothing.pictures, [one.name for one in nothing.left_out]) == ([], ORDER)
    running = trial(0, None, state="RUNNING", curve=course(0.3, math.inf), params={"rank": 8})
    waiting = trial(1, None, state="WAITING", params={}, duration_s=None)
    begun = album(home.study("demo"), StudyView("demo", [running, waiting], {}), config, None)
    assert [one.name for one in begun.pictures] == ["learning_curves"]
    stopped = [replace(one, value=None, state="PRUNED", reason=Reason.PRUNER) for one in some(10).trials]
    none_complete = album(home.study("demo"), StudyView("demo", stopped, ATTRIBUTES), config, None)
    assert [one.name for one in none_complete.pictures] == [
        "cost_front",
        "learning_curves",
        "retention",
        "memory",
        "learning_curve",
    ]
    assert all(inked(one) for one in none_complete.pictures)


def test_a_thousand_trials_in_seconds(config: Config, home: Home) -> None:
    seen = some(1000)
    engine, _ = ledger_of(PRICE, "demo")
    cost = statement(engine, seen, PRICE)
    started = time.process_time()
    found = album(home.study("demo"), seen, config, cost).pictures
    for one in found:
        rendered(one.draw(LIGHT), LIGHT, "svg")
    assert len(found) == len(ORDER) - 1  # nothing is predicted here
    assert time.process_time() - started < 12.0  # 3 s on a machine that does nothing else


def test_one_that_cannot_be_composed_costs_no_other(
    config: Config, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a row of the data")

    for name in ("memory", "importances"):
        monkeypatch.setattr(album_module, name, broken)
    found = album(home.study("demo"), some(40), config, None)
    failed = {one.name: one.reason for one in found.left_out if one.has_failed}
    assert failed == dict.fromkeys(("memory", "importance"), "it cannot be drawn: ZeroDivisionError")
    assert {"interaction", "cost_front", "retention"} <= {one.name for one in found.pictures}


def test_the_command(composed: Any, home: Home, tmp_path: Path) -> None:
    stored(home, composed("study=demo", *PRICED))

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, ["pictures", "demo", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    said = run()
    assert "cost_front: The winner, trial 0, scores 0.7 ± 0.01 for $0.0300 alone" in said
    assert "importance: left out: it takes 8 complete trials, but there are 2" in said
    folder = tmp_path / "new" / "pictures"
    found = json.loads(run("--to", str(folder), "--theme", "dark", "--form", "svg", "--json"))
    files = {one["name"]: Path(one["file"]) for one in found["pictures"]}
    assert set(files) | set(found["left_out"]) == set(ORDER)
    assert sorted(folder.iterdir()) == sorted(files.values())
    assert all(DARK.background in file.read_text(encoding="utf-8") for file in files.values())
    (tmp_path / "file").touch()
    assert "--to must be a folder that can be made" in run("--to", str(tmp_path / "file" / "x"), code=2)
    check.load(home.study("demo"))  # nothing was changed


def test_the_command_draws_those_that_can_be_drawn(
    composed: Any, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(home, composed("study=demo", *PRICED))
    monkeypatch.setattr("sweeper.plots.cost_front._fill", lambda *_: 1 / 0)
    done = CliRunner().invoke(main, ["pictures", "demo", "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "cost_front: left out: it cannot be drawn: ZeroDivisionError" in done.output
    assert "cost_front: The winner" not in done.output
    assert not (tmp_path / "cost_front.png").exists()
    assert (tmp_path / "dollars.png").is_file()
