"""What a person names, and whose predictions these are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.comparison.sides import side_of
from sweeper.config import check
from sweeper.errors import ExportError, StoreError
from sweeper.mistakes.kept import hashed
from sweeper.paths import Home
from sweeper.search.study import Search
from tests.comparison.conftest import Export, Study, keep, wrong
from tests.search.conftest import ask


def test_a_study_its_trials_and_its_base(study: Study, home: Home) -> None:
    paths = study("demo")
    for number in (2, 1, None):
        keep(paths, number, wrong(0))
    keep(paths, 0, wrong(1), "validation")
    found = {given: side_of(home, given, "test") for given in ("demo", "demo:2", "demo:1", "demo:base")}
    assert [side.trial for side in found.values()] == [2, 2, 1, None]
    assert [side.name for side in found.values()] == [
        *("demo, trial 2", "demo, trial 2", "demo, trial 1", "demo, the untuned base")
    ]
    assert found["demo"].key == found["demo:2"].key == ("demo", "trial 2")
    assert found["demo"].metrics == ["accuracy", "macro_f1"]
    assert found["demo"].objective == "accuracy"
    assert side_of(home, "demo:0", "validation").kept[1].is_correct is False


def test_a_trial_that_is_another_again_has_its_predictions(study: Study, home: Home) -> None:
    paths = study("demo")
    config = check.load(paths)
    search = Search(home, config)
    number = ask(search).number
    search.repeat(number, search.trial(1), {})
    keep(paths, 1, wrong(0))
    side = side_of(home, f"demo:{number}", "test")
    assert (side.trial, side.trained_as, side.owner, side.key) == (number, 1, 1, ("demo", "trial 1"))
    assert side.notes == [f"trial {number} of demo is trial 1 again, whose predictions these are"]
    assert side.view is not None
    assert side.view.number == 1


def test_what_has_no_test_predictions_is_said_with_who_has(study: Study, home: Home) -> None:
    paths = study("demo")
    with pytest.raises(StoreError, match=r"none of trial 2; there are those of: none yet\. --split validation"):
        side_of(home, "demo", "test")
    for number in (2, 1, None):
        keep(paths, number, wrong(0))
    with pytest.raises(StoreError, match=r"none of trial 0; there are those of: trials 1, 2 and the untuned base\."):
        side_of(home, "demo:0", "test")
    with pytest.raises(StoreError, match=r"no predictions of trial 0, which ended before they were kept"):
        side_of(home, "demo:0", "validation")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("demo:9", "has trials 0 to 2, but not 9"),
        ("demo:best", "the number of a trial or `base`, but got 'best'"),
        ("other", r"unknown study `other`.*Known: demo"),
        ("no/such/folder", "STUDY:base or a folder that `sweeper export` wrote, but got no/such/folder"),
    ],
)
def test_what_is_none_of_these_is_said(study: Study, home: Home, given: str, expected: str) -> None:
    study("demo")
    with pytest.raises((StoreError, ExportError), match=expected):
        side_of(home, given, "test")


def test_a_study_without_a_winner(study: Study, home: Home) -> None:
    study("demo", scores=())
    with pytest.raises(
        StoreError, match=r"no winner yet \(no trials yet\); name a trial, as demo:0, or the untuned base"
    ):
        side_of(home, "demo", "test")


def test_an_export_is_compared_by_its_own_predictions(study: Study, home: Home, export: Export) -> None:
    paths = study("demo")
    folder = export("demo", 2, parity={"split": "test", "rows": 16})
    keep(paths, None, wrong(0, 1), to=folder / "predictions.jsonl")
    side = side_of(home, str(folder), "test")
    assert (side.trial, side.is_exported, side.notes) == (2, True, [])
    assert side.name == "exported (demo, trial 2)"
    assert side.key[1].startswith("trial 2, export ")
    assert sum(not one.is_correct for one in side.kept) == 2
    assert side.studied is not None


def test_an_export_without_them_falls_back_on_its_study(study: Study, home: Home, export: Export) -> None:
    paths = study("demo")
    keep(paths, 2, wrong(0))
    side = side_of(home, str(export("demo", 2)), "test")
    assert (side.is_exported, side.key) == (False, ("demo", "trial 2"))
    assert "these are those of trial 2 of demo in the store, before it was exported" in side.notes[0]


def test_an_export_of_a_study_with_other_rows_has_to_be_exported_again(
    study: Study, home: Home, export: Export, tmp_path: Path
) -> None:
    paths = study("demo")
    keep(paths, 2, wrong(0))
    other = export("demo", 2, name="other", data_sha256="of others")
    with pytest.raises(ExportError, match=r"has none; the study 'demo' of the store has other rows.*export it again"):
        side_of(home, str(other), "test")
    nowhere = Home(tmp_path / "empty")
    with pytest.raises(ExportError, match=r"study 'demo' is not in the store at .*`sweeper export demo --trial 2"):
        side_of(nowhere, str(other), "test")
    checked = export("demo", 2, name="checked", parity={"split": "validation", "rows": 16})
    keep(paths, None, wrong(0), "validation", to=checked / "predictions.jsonl")
    with pytest.raises(ExportError, match=r"has those for the validation rows; .*--split validation compares those"):
        side_of(nowhere, str(checked), "test")
    alone = side_of(nowhere, str(checked), "validation")
    assert (alone.studied, alone.objective, alone.metrics) == (None, None, ["accuracy", "macro_f1"])


def test_an_export_whose_answers_are_hashes(study: Study, home: Home, export: Export) -> None:
    paths = study("demo")
    folder = export("demo", 2, task="generation", parity={"split": "test", "rows": 16})
    made = keep(paths, None, wrong(0))
    lines = [
        one.model_copy(update={"prediction": hashed(one.prediction), "truth": None, "token_f1": 0.5}).model_dump_json(
            exclude_none=True
        )
        for one in made
    ]
    (folder / "predictions.jsonl").write_text("\n".join(lines))
    side = side_of(home, str(folder), "test")
    assert side.kept[0].prediction == hashed("nothing")
    assert side.metrics[:2] == ["exact_match", "token_f1"]


def test_a_folder_that_is_no_export_is_said(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has a readable sweeper\.json, but"):
        side_of(home, str(tmp_path), "test")
    (tmp_path / "sweeper.json").write_text(json.dumps({"study": "demo"}))
    with pytest.raises(ExportError, match=r"sweeper\.json lacks trial, model, .*data_sha256"):
        side_of(home, str(tmp_path), "test")
    (tmp_path / "sweeper.json").write_text("[]")
    with pytest.raises(ExportError, match=r"sweeper\.json"):
        side_of(home, str(tmp_path), "test")
