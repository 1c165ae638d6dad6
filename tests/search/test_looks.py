"""How often a test split was used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.errors import StoreError
from sweeper.paths import Home, StudyPaths
from sweeper.search.looks import WHY, count_pair, looks, scored_so_far


@pytest.fixture
def paths(home: Home) -> StudyPaths:
    made = home.study("demo")
    made.create()
    return made


def test_a_split_that_was_scored_once_has_chosen_nothing(paths: StudyPaths) -> None:
    test = {"trial": 7, "looks": 1, "scored": [4, 7], "runner_up": {"trial": 4}}
    found = looks({"test": test}, paths)
    assert found.is_once
    assert found.sentence() == "The test split was scored once (trials 4, 7 and the untuned base)."
    assert looks({}, paths).sentence() == "The test split was never scored."
    alone = looks({"test": {"trial": 7, "looks": 1, "scored": [7]}}, paths)
    assert alone.sentence() == "The test split was scored once (trial 7 and the untuned base)."


def test_more_uses_are_said_with_why_they_matter(paths: StudyPaths) -> None:
    found = looks({"test": {"trial": 9, "looks": 3, "scored": [4, 7, 9]}}, paths)
    assert found.sentence() == f"The test split was scored 3 times (trials 4, 7, 9 and the untuned base). {WHY}"
    older = looks({"test": {"trial": 9, "looks": 2, "runner_up": {"trial": 4}}}, paths)
    assert older.sentence().startswith(
        "The test split was scored 2 times (the last time trials 4, 9 and the untuned base)"
    )
    oldest = {"trial": 9}  # from before they were counted
    assert looks({"test": oldest}, paths).scored == 1
    assert scored_so_far(oldest) == [9]


def test_each_pair_counts_once_in_any_order(paths: StudyPaths) -> None:
    assert count_pair(paths, "trial 3", "the untuned base")
    assert not count_pair(paths, "the untuned base", "trial 3")
    assert count_pair(paths, "trial 3", "trial 4")
    test = {"test": {"trial": 3, "looks": 1, "scored": [3]}}
    found = looks(test, paths)
    assert found.pairs == (("the untuned base", "trial 3"), ("trial 3", "trial 4"))
    assert not found.is_once
    assert (
        "scored once (trial 3 and the untuned base), and 2 pairs were compared on it. Each choice" in found.sentence()
    )
    assert found.as_dict() == {
        "scored": 1,
        "trials": [3],
        "pairs": [["the untuned base", "trial 3"], ["trial 3", "trial 4"]],
    }
    assert paths.test_comparisons.name in paths.known
    assert paths.test_comparisons.name in paths.written
    paths.test_comparisons.write_text(json.dumps({"pairs": [["a", "b"]]}))
    assert "1 pair was compared on it" in looks(test, paths).sentence()


def test_a_count_that_is_damaged_is_said_and_not_written_over(paths: StudyPaths) -> None:
    paths.test_comparisons.write_text("[")
    with pytest.raises(StoreError, match=r"test_comparisons.json must have the pairs.*JSONDecodeError"):
        count_pair(paths, "a", "b")
    found = looks({"test": {"trial": 3, "looks": 1}}, paths)
    assert found.pairs is None
    assert "how many pairs were compared on it cannot be read" in found.sentence()
    assert paths.test_comparisons.read_text() == "["


def test_a_write_that_fails_is_an_error_of_the_store(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: str) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("sweeper.search.looks.write_atomically", refuse)
    with pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\)"):
        count_pair(paths, "a", "b")
