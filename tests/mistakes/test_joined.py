from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.errors import StoreError
from sweeper.mistakes import kept
from sweeper.mistakes.counts import against_base, by_confidence, by_length, confusions, worst
from sweeper.mistakes.joined import chosen, joined
from sweeper.mistakes.kept import Kept
from sweeper.paths import Home
from sweeper.search.views import view
from tests.mistakes.conftest import Make, keep

WRONG = {0: ("return", 0.6), 4: ("return", 0.9), 1: ("cancel", 0.8), 15: ("cancel", 0.3)}


def test_wrong_rows_are_joined_to_their_text_and_counted(make: Make, home: Home) -> None:
    paths = make(0.5, 0.75)
    keep(paths, 1, WRONG)
    keep(paths, None, dict.fromkeys((0, 1, 3), ("refund", 0.2)))
    seen = view(home, "demo")
    assert chosen(seen, None) == 1
    found = joined(seen, paths, 1, "validation")
    assert found.notes == []
    assert [one.text for one in found.wrong] == ["please " * n + f"[red]validation {n}" for n in (4, 1, 0, 15)]
    assert [one.kept.row for one in worst(found)] == [f"validation.jsonl:{line}" for line in (5, 2, 1, 16)]
    assert [(one.truth, one.predicted, len(one.rows)) for one in confusions(found)] == [
        ("cancel", "return", 2),
        ("change", "cancel", 1),
        ("return", "cancel", 1),
    ]
    assert confusions(found)[0].rows[0].kept.confidence == 0.9
    assert against_base(found.judged) == (3, 1, 2)  # the base has 0, 1 and 3 wrong
    assert [(one.low, one.high, one.rows, one.wrong) for one in by_length(found.judged)] == [
        (10, 13, 4, 2),
        (14, 17, 4, 1),
        (18, 21, 4, 0),
        (22, 25, 4, 1),
    ]
    assert [(one.low, one.high, one.rows, one.wrong) for one in by_confidence(found.judged)] == [
        (0.3, 0.3, 1, 1),
        (0.6, 0.6, 1, 1),
        (0.8, 0.8, 1, 1),
        (0.9, 0.95, 13, 1),
    ]


def test_rows_of_one_length_stay_together(make: Make, home: Home) -> None:
    paths = make(0.5)
    keep(paths, 0, WRONG)
    known = kept.read(paths.predictions(0))
    same = [one.model_copy(update={"tokens": 7 if n < 10 else 9}) for n, one in enumerate(known)]
    kept.write(paths.predictions(0), [*same[:-1], same[-1].model_copy(update={"confidence": None})])
    found = joined(view(home, "demo"), paths, 0, "validation")
    assert [(one.low, one.high, one.rows) for one in by_length(found.judged)] == [(7, 7, 10), (9, 9, 6)]
    assert sum(one.rows for one in by_confidence(found.judged)) == 15
    assert against_base(found.judged) is None  # nothing is kept of it


def test_rows_that_moved_are_found_and_those_that_changed_are_said(make: Make, home: Home, data: Path) -> None:
    paths = make(0.5)
    keep(paths, 0, WRONG)
    file = data / "validation.jsonl"
    lines = file.read_text().splitlines()
    other = json.dumps({"text": "another", "label": "cancel"})
    file.write_text("\n".join([other, *reversed(lines[1:])]))
    found = joined(view(home, "demo"), paths, 0, "validation")
    assert [one.text and one.text[-1] for one in found.wrong] == ["4", "1", None, "5"]
    [note] = found.notes
    assert note.startswith("1 of 16 rows are no longer in the data as they were scored")
    assert note.endswith("validation.jsonl:1")

    file.unlink()
    found = joined(view(home, "demo"), paths, 0, "validation")
    assert [one.text for one in found.wrong] == [None] * 4
    assert [one.truth for one in found.wrong] == ["cancel", "return", "cancel", "change"]
    [note] = found.notes
    assert "the data of the study cannot be read" in note
    assert "`validation` is missing in" in note


def test_written_answers_are_ordered_by_how_far_off_they_are(make: Make, home: Home) -> None:
    paths = make(0.5)
    keep(paths, 0, {})
    scores = {0: (0.5, 0.9), 1: (0.0, 0.1), 2: (0.0, 0.7)}
    written = [
        one.model_copy(
            update={"truth": None, "token_f1": 1.0}
            | ({"token_f1": scores[n][0], "confidence": scores[n][1], "is_correct": False} if n in scores else {})
        )
        for n, one in enumerate(kept.read(paths.predictions(0)))
    ]
    kept.write(paths.predictions(0), written)
    found = joined(view(home, "demo"), paths, 0, "validation")
    assert [one.kept.row for one in worst(found)] == [f"validation.jsonl:{line}" for line in (3, 2, 1)]
    assert confusions(found) == []


@pytest.mark.parametrize(
    ("number", "split", "expected"),
    [
        (7, "validation", "has trials 0 to 0, but not 7"),
        (
            0,
            "validation",
            r"no predictions of trial 0, which ended before they were kept; `sweeper rerun demo --trial 0`",
        ),
        (0, "test", r"none are kept of trial 0 \(none was scored yet\)"),
        (None, "validation", "no predictions of the untuned base"),
    ],
)
def test_what_is_not_kept_is_said(make: Make, home: Home, number: int | None, split: str, expected: str) -> None:
    paths = make(0.5)
    with pytest.raises(StoreError, match=expected):
        joined(view(home, "demo"), paths, number, split)


def test_a_winner_is_needed_where_no_trial_is_named(make: Make, home: Home) -> None:
    make()
    with pytest.raises(StoreError, match=r"has no winner yet \(no trials yet\); name a trial with --trial N"):
        chosen(view(home, "demo"), None)


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    one = Kept(row="a:1", sha256="x", tokens=1, prediction="secret words", is_correct=True)
    kept.write(file, [one])
    assert kept.read(file) == [one]
    odd = one.model_copy(update={"prediction": "one\u2028two\x85three\x0cfour"})  # all of them end a line for Python
    kept.write(file, [odd, one])
    assert kept.read(file) == [odd, one]
    file.write_text('{"prediction": "secret words"}\n')
    with pytest.raises(StoreError, match=r"must have a prediction in each line.*ValidationError") as caught:
        kept.read(file)
    assert "secret" not in str(caught.value)
