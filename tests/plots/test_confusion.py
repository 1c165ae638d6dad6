"""Which label is taken for which."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.mistakes import kept
from sweeper.mistakes.kept import Kept
from sweeper.paths import Home, StudyPaths
from sweeper.plots.confusion import MOST_LABELS, confusion
from sweeper.plots.picture import LIGHT, LeftOut, Picture
from sweeper.search.views import StudyView
from tests.launch.test_tables import trial
from tests.plots.conftest import drawn, inked, words

STUDY = StudyView("demo", [trial(0, 0.4), trial(1, 0.8)], {})


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return Home(tmp_path).study("demo")


def keep(paths: StudyPaths, pairs: list[tuple[str | None, str]], split: str = "validation", number: int = 1) -> None:
    rows = [
        Kept(row=f"r:{n}", sha256="0", tokens=3, prediction=said, is_correct=truth == said, truth=truth)
        for n, (truth, said) in enumerate(pairs)
    ]
    kept.write(paths.predictions(number, split), rows)


PAIRS = [("a", "a")] * 6 + [("a", "b")] * 3 + [("b", "b")] * 4 + [("b", "c")] + [("c", "c")] * 2


def test_counts_and_the_most_frequent_mistake(paths: StudyPaths) -> None:
    keep(paths, PAIRS)
    made = confusion(STUDY, paths)
    assert isinstance(made, Picture)
    assert made.sentence == (
        "4 of 16 validation rows are wrong (25.0%); the most frequent mistake is 'a' taken for 'b', 3 times."
    )
    axes = drawn(made)
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "6", (1, 0): "3", (1, 1): "4", (2, 1): "1", (2, 2): "2"}
    shades = axes.images[0].get_array()
    assert tuple(shades[0, 1]) != tuple(shades[0, 2])  # what was mistaken is coloured
    assert "33% of the label's rows" in axes.get_xlabel()
    keep(paths, [("a", "a")], "test")
    tested = confusion(STUDY, paths)
    assert isinstance(tested, Picture)
    assert tested.sentence == "0 of 1 test rows are wrong (0.0%)."
    assert inked(tested)


def test_of_many_labels_the_most_confused_are_shown(paths: StudyPaths) -> None:
    names = [f"{'a very long name of a label ' * 3}größer 你好 {place:02d}" for place in range(77)]
    right = [(name, name) for name in names for _ in range(3)]
    wrong = [(names[place], names[place + 1]) for place in range(40, 70) for _ in range(place)]
    keep(paths, right + wrong)
    made = confusion(STUDY, paths)
    assert isinstance(made, Picture)
    assert made.title == f"The {MOST_LABELS} of 77 labels that are confused the most, trial 1 on validation"
    axes = drawn(made)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == MOST_LABELS
    assert len(set(labels)) == MOST_LABELS
    assert all(len(label) <= 26 for label in labels)
    assert labels[-1].endswith("你好 69  20")
    assert labels[0].endswith("你好 50  1")
    assert inked(made)
    figure = made.draw(LIGHT)
    with LIGHT.applied():
        figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    assert box.width > 0.5 * figure.bbox.width  # names leave room for the cells


def test_where_there_are_none(paths: StudyPaths) -> None:
    assert confusion(StudyView("demo", [], {}), paths) == LeftOut("confusion", "there is no winner yet")
    assert confusion(STUDY, paths) == LeftOut("confusion", "no predictions of trial 1 are kept")
    keep(paths, [(None, "an answer")])
    assert confusion(STUDY, paths) == LeftOut("confusion", "answers are written, and no labels")
    paths.predictions(1).write_text("{damaged", encoding="utf-8")
    damaged = confusion(STUDY, paths)
    assert isinstance(damaged, LeftOut)
    assert "must have a prediction in each line" in damaged.reason


def test_a_repeated_winner_has_the_predictions_of_whom_it_repeats(paths: StudyPaths) -> None:
    keep(paths, PAIRS, number=0)
    again = StudyView("demo", [trial(0, None, state="FAIL"), trial(1, 0.8, same_as=0)], {})
    made = confusion(again, paths)
    assert isinstance(made, Picture)
    assert "trial 1 on validation" in words(made)
