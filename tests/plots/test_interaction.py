"""What two parameters do together: cells, words and picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from sweeper.cli.main import main
from sweeper.config import check
from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.plots.interaction import Interaction
from sweeper.plots.interaction_picture import draw
from sweeper.search.study import Search
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason
from tests.search.conftest import ask, complete


def trial(number: int, value: float | None, error: float = 0.02, reason: str | None = None, **params: Any) -> TrialView:
    return TrialView(
        number=number,
        state="COMPLETE" if value is not None else "PRUNED",
        params=params,
        value=value,
        metrics={"accuracy": value, "accuracy_se": error} if value is not None else {},
        curve=(),
        duration_s=1.0,
        reason=reason,
        detail=None,
        examples_seen=8,
        is_informed=False,
        evaluations=(),
        constraints={},
        same_as=None,
        start=None,
        company=[],
    )


def study(*trials: TrialView) -> StudyView:
    return StudyView("s", list(trials), {})


SEED_0 = study(
    trial(0, 0.3, rank=8, learning_rate=1e-3),
    trial(1, 0.8, rank=64, learning_rate=1e-3),
    trial(2, 0.7, rank=8, learning_rate=1e-2),
    trial(3, None, reason=Reason.DIVERGED, rank=64, learning_rate=1e-2),
)
SEED_1 = study(trial(0, 0.4, rank=8, learning_rate=1e-3))


def of(*studies: StudyView, x: str = "learning_rate", y: str = "rank", is_minimized: bool = False) -> Interaction:
    return Interaction.of(studies, "accuracy", is_minimized, x, y)


def test_cells_of_one_study_and_of_two_seeds() -> None:
    one = of(SEED_0)
    assert (one.values(0), one.values(1)) == ([1e-3, 1e-2], [8, 64])
    assert one.cells[1e-3, 8].error == 0.02
    assert one.cells[1e-2, 64].value is None
    assert one.cells[1e-2, 64].diverged == 1
    assert one.best(8) == (1e-2, one.cells[1e-2, 8])
    assert (one.others, one.unended) == ([], 0)
    both = of(SEED_0, SEED_1).cells[1e-3, 8]
    assert both.values == (0.3, 0.4)
    assert both.value == pytest.approx(0.35)
    assert both.error == pytest.approx((0.02**2 + 0.05**2) ** 0.5)  # that of the rows, and that of the seeds


def test_less_may_be_better() -> None:
    found = of(SEED_0, is_minimized=True).best(8)
    assert found is not None
    assert found[0] == 1e-3


def test_what_else_differs_and_what_was_stopped_is_said() -> None:
    found = of(
        study(
            trial(0, 0.3, rank=8, learning_rate=1e-3, dropout=0.0),
            trial(1, 0.5, rank=8, learning_rate=1e-3, dropout=0.1),
            trial(2, None, reason=Reason.PRUNER, rank=16, learning_rate=1e-3, dropout=0.1),
        )
    )
    assert (found.others, found.unended) == (["dropout"], 1)
    assert found.cells[1e-3, 8].value == 0.4
    assert found.best(16) is None


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ("rnk", "rank", "unknown searched parameter `rnk`; did you mean `rank`"),
        ("rank", "rank", "one of two parameters, but --x and --y are both 'rank'"),
        ("rank", "learning_rate", r"at most 12 values, but learning_rate has had 20; --y=rank --x=learning_rate swaps"),
    ],
)
def test_what_is_no_interaction(x: str, y: str, expected: str) -> None:
    many = study(*(trial(n, 0.5, rank=8, learning_rate=1e-3 * (n + 1)) for n in range(20)))
    with pytest.raises(StoreError, match=expected):
        of(many, x=x, y=y)
    with pytest.raises(StoreError, match="there is none that has learning_rate and rank yet"):
        of(study(trial(0, None, reason=Reason.DIVERGED, rank=8, learning_rate=1e-3)))


@pytest.mark.parametrize("is_minimized", [False, True])
def test_a_grid_is_drawn_as_lines_and_cells_and_a_range_as_trials(tmp_path: Path, is_minimized: bool) -> None:
    grid, trials = tmp_path / "grid.png", tmp_path / "trials.png"
    draw(of(SEED_0, is_minimized=is_minimized), "seed 0", grid)
    many = study(*(trial(n, 0.4 + n / 100, rank=8 * (1 + n % 2), learning_rate=1e-3 * (n + 1)) for n in range(20)))
    assert of(SEED_0).is_full
    assert not of(many).is_full
    draw(of(many, is_minimized=is_minimized), "a range", trials)
    pictures = [imread(file) for file in (grid, trials)]
    assert pictures[0].shape[0] > pictures[1].shape[0]  # the table is below the lines
    assert all(picture.std() > 0.05 for picture in pictures)  # not blank
    assert sorted(file.name for file in tmp_path.iterdir()) == ["grid.png", "trials.png"]


def test_words_may_be_an_axis(tmp_path: Path) -> None:
    found = of(
        study(trial(0, 0.3, rank=8, schedule="constant"), trial(1, 0.5, rank=8, schedule="cosine")), x="schedule"
    )
    assert found.values(0) == ["constant", "cosine"]
    draw(found, "words", tmp_path / "words.png")
    assert (tmp_path / "words.png").stat().st_size > 1000


def test_one_that_cannot_be_drawn_is_no_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.plots.interaction_picture._fill", lambda *_: 1 / 0)
    with pytest.raises(StoreError, match=r"there is no picture .*it cannot be drawn: ZeroDivisionError"):
        draw(of(SEED_0), "seed 0", tmp_path / "grid.png")


def test_the_command(composed: Any, home: Home, tmp_path: Path) -> None:
    few = ("search.space.rank=[8,64]", "search.trials=10")
    for seed in (0, 1):
        config = composed("study=rank-story", f"study.name=s{seed}", *few, f"train.seed={seed}")
        paths = home.study(config.study.name)
        paths.create()
        check.save(config, paths)
        search = Search(home, config)
        for _ in range(10):
            asked = ask(search)
            complete(search, asked.number, 0.5 + 0.1 * (asked.params["rank"] == 64) + 0.02 * seed)

    def show(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, ["interaction", *arguments], env={"COLUMNS": "120"})
        assert done.exit_code == code, done.output
        return done.output

    picture = tmp_path / "both.png"
    shown = show("s0", "s1", "--to", str(picture))
    assert "accuracy by rank (rows) and learning_rate (columns)" in shown
    assert re.search(r"^ +64( +0\.610 ± 0\.014){5}", shown, re.MULTILINE)
    assert "rank 8: best 0.510 ± 0.014 at learning_rate 0.0003" in shown
    assert imread(picture).ndim == 3
    cells = json.loads(show("s0", "--json"))["cells"]
    assert len(cells) == 10
    assert {cell["value"] for cell in cells} == {0.5, 0.6}
    assert "unknown study `s2`" in show("s2", code=2)
    config = composed("study=rank-story", "study.name=s3", "objective.metric=macro_f1")
    home.study("s3").create()
    check.save(config, home.study("s3"))
    Search(home, config)
    assert "must have the same metric, but: s0 accuracy, s3 macro_f1" in show("s0", "s3", code=2)
