"""Two sides on the same rows: what is said of them, what is refused, and what is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.comparison.compared import Asked, Comparison, compare
from sweeper.comparison.paired import Change
from sweeper.comparison.scores import Verdict
from sweeper.comparison.table import as_dict
from sweeper.errors import ConfigError, StoreError
from sweeper.mistakes.kept import hashed
from sweeper.paths import Home
from sweeper.search.looks import looks
from sweeper.search.views import view
from tests.comparison.conftest import Export, Study, keep, wrong
from tests.mistakes.conftest import WORDS

COST = (
    "objective.metric={_target_: tests.custom.samples.cost, name: cost, wrong: 2.0}",
    "objective.direction=minimize",
)


def between(home: Home, a: str, b: str, split: str = "test", **more: object) -> Comparison:
    return compare(home, replace(Asked(a, b, split), **more))  # type: ignore[arg-type]


def test_a_winner_against_its_base_and_its_runner_up(study: Study, home: Home) -> None:
    """Of sixteen rows the winner has one wrong, the base twelve, one of them the same."""
    paths = study("demo")
    keep(paths, 2, wrong(0, text="cancellation"))
    keep(paths, 1, wrong(1))
    keep(paths, None, wrong(*range(12)))
    found = between(home, "demo:base", "demo")
    one = found.differences["accuracy"]
    assert (one.a.value, one.b.value, one.value) == (4 / 16, 15 / 16, 11 / 16)
    assert one.verdict is Verdict.BETTER
    assert (found.right_wrong.only_a, found.right_wrong.only_b, found.right_wrong.both_wrong) == (0, 11, 1)
    assert found.right_wrong.p == pytest.approx(2 / 2**11)
    assert len(found.changed) == 12
    assert [found.count(change) for change in (Change.RIGHT, Change.WRONG, Change.OTHER)] == [11, 0, 1]
    assert found.notes == []
    assert between(home, "demo", "demo:base").differences["accuracy"].verdict is Verdict.WORSE

    close = between(home, "demo", "demo:1")
    assert close.differences["accuracy"].value == 0
    assert close.differences["accuracy"].verdict is Verdict.ALIKE
    assert [pair.change for pair in close.changed] == [Change.WRONG, Change.RIGHT]
    assert "what confirmation tells" in close.notes[0]


def test_each_pair_on_the_test_split_is_counted_once(study: Study, home: Home) -> None:
    paths = study("demo")
    for number in (2, 1, None):
        keep(paths, number, wrong(0))
    for a, b in (("demo", "demo:1"), ("demo:1", "demo:2"), ("demo", "demo:base"), ("demo:base", "demo")):
        found = between(home, a, b)
    assert found.uses["demo"].pairs == (("trial 1", "trial 2"), ("the untuned base", "trial 2"))
    assert found.uses["demo"].scored == 1
    keep(paths, 0, wrong(1), "validation")
    keep(paths, 1, wrong(1), "validation")
    assert between(home, "demo:0", "demo:1", "validation").uses == {}
    assert len(json.loads(paths.test_comparisons.read_text())["pairs"]) == 2
    assert looks(view(home, "demo").attributes, paths).pairs == found.uses["demo"].pairs


def test_where_it_cannot_be_counted_that_is_said(study: Study, home: Home) -> None:
    paths = study("demo")
    for number in (2, None):
        keep(paths, number, wrong(0))
    paths.test_comparisons.write_text("{}")
    found = between(home, "demo", "demo:base")
    assert found.notes[-1].startswith("not counted as a use of the test split: ")
    assert found.uses["demo"].pairs is None


def test_validation_compares_any_trial_and_says_whom_it_flatters(study: Study, home: Home) -> None:
    paths = study("demo")
    keep(paths, 0, wrong(0), "validation")
    keep(paths, 2, wrong(3), "validation")
    found = between(home, "demo:0", "demo", "validation")
    assert found.notes[0].startswith("The validation rows chose the winner")
    assert "--split test compares on rows that chose nothing" in found.notes[0]


def test_the_same_thing_twice_is_refused(study: Study, home: Home, export: Export) -> None:
    keep(study("demo"), 2, wrong(0))
    for other in ("demo:2", str(export("demo", 2))):  # which has none of its own
        with pytest.raises(StoreError, match="must be two, but both have the predictions of demo, trial 2"):
            between(home, "demo", other)


def test_studies_of_other_rows_are_refused(study: Study, home: Home, data: Path) -> None:
    one, other = study("one"), study("other")
    keep(one, 2, wrong(0))
    file = data / "test.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(reversed([*lines[:12], json.dumps({"text": "another", "label": WORDS[0]})])))
    keep(other, 2, wrong(0, rows=13))
    with pytest.raises(StoreError, match=r"4 rows are only in A and 1 row is only in B; 12 rows are in both"):
        between(home, "one", "other")
    assert not one.test_comparisons.exists()
    found = between(home, "one", "other", is_common=True)
    assert len(found.pairs) == 12
    assert "compared on the 12 rows that both have, of 16 of A and 13 of B" in found.notes
    assert (found.pairs[0].a.row, found.pairs[0].b.row) == ("test.jsonl:1", "test.jsonl:13")  # by their hash
    assert {name: used.pairs for name, used in found.uses.items()} == {
        "one": (("other, trial 2", "trial 2"),),
        "other": (("one, trial 2", "trial 2"),),
    }


def test_an_export_against_its_study(study: Study, home: Home, export: Export, tmp_path: Path) -> None:
    paths = study("demo")
    keep(paths, 2, wrong(0))
    folder = export("demo", 2, parity={"split": "test", "rows": 16})
    keep(paths, None, wrong(0, 5), to=folder / "predictions.jsonl")
    found = between(home, "demo", str(folder))
    assert found.differences["accuracy"].value == -1 / 16
    assert [pair.change for pair in found.changed] == [Change.WRONG]
    assert found.notes == []  # it is the same training
    [[one, other]] = found.uses["demo"].pairs or [[]]
    assert (one, other[:15]) == ("trial 2", "trial 2, export")

    second = export("demo", 1, name="second", parity={"split": "test", "rows": 16})
    keep(paths, None, wrong(1), to=second / "predictions.jsonl")
    nowhere = Home(tmp_path / "nowhere")
    alone = between(nowhere, str(folder), str(second))
    assert (alone.metric, alone.uses) == ("accuracy", {})
    assert alone.notes[-1] == "not counted as a use of the test split: study 'demo' is not in the store"


def test_a_metric_of_which_less_is_better(study: Study, home: Home, data: Path) -> None:
    """The user's own, computed from the rows: two for each wrong label."""
    paths = study("demo", *COST)
    keep(paths, 2, wrong(0))
    keep(paths, None, wrong(*range(12)))
    found = between(home, "demo:base", "demo", every_metric=True)
    one = found.differences["cost"]
    assert (one.a.value, one.b.value, one.value) == (2 * 12 / 16, 2 / 16, -22 / 16)
    assert (one.a.error, one.is_minimized, one.verdict) == (None, True, Verdict.BETTER)
    assert found.differences["accuracy"].verdict is Verdict.BETTER
    assert found.metric == "cost"
    (data / "test.jsonl").unlink()
    with pytest.raises(StoreError, match=r"cost is computed from the rows' texts, but these cannot be read: .*test"):
        between(home, "demo:base", "demo")
    kept = between(home, "demo:base", "demo", metric="accuracy", every_metric=True)
    assert "cannot be read" in kept.left_out["cost"]


def test_metrics_that_differ_have_to_be_named(study: Study, home: Home) -> None:
    for name, *overrides in (("plain",), ("costs", *COST), ("macro", "objective.metric=macro_f1")):
        keep(study(name, *overrides), 2, wrong(0 if name == "plain" else 1))
    with pytest.raises(StoreError, match=r"went by accuracy and macro_f1: --metric must say which one, of accuracy"):
        between(home, "plain", "macro")
    assert between(home, "plain", "macro", metric="macro_f1").metric == "macro_f1"
    with pytest.raises(
        ConfigError, match=r"--metric must be one that both have: unknown metric `cost`.*accuracy, macro"
    ):
        between(home, "plain", "costs", metric="cost")
    study("turned", COST[0], "objective.direction=maximize")
    keep(home.study("turned"), 2, wrong(2))
    with pytest.raises(StoreError, match="one search maximizes it and the other one minimizes it"):
        between(home, "costs", "turned")


@pytest.fixture
def written(data: Path) -> tuple[str, ...]:
    """What a study of written answers needs beside its rows, which are made."""
    for split in ("train", "validation", "test"):
        said = ["Return the name of a file.", "Close it.", "Read all lines of the file and return them as a list."]
        lines = [{"code": f"secret text {split} {n}", "comment": said[n % 3]} for n in range(12)]
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return (
        *("task=comments", "objective.metric=chrf", "prompt.template='{{ text }}'"),
        *(
            "data.columns.text=null",
            "data.columns.label=null",
            "data.columns.code=code",
            "data.columns.comment=comment",
        ),
    )


def test_overlap_is_computed_from_the_rows(study: Study, home: Home, written: tuple[str, ...], export: Export) -> None:
    paths = study("notes", *written)
    made = keep(paths, 2, wrong(0, rows=12, text="Return a file."))
    keep(paths, None, wrong(*range(12), rows=12, text="It is a file."))
    found = between(home, "notes:base", "notes", every_metric=True)
    assert list(found.differences) == ["chrf", "bleu", "rouge_l", "exact_match", "token_f1"]
    assert found.differences["chrf"].verdict is Verdict.BETTER
    assert found.differences["rouge_l"].b.error is not None
    assert found.differences["exact_match"].value == 11 / 12

    folder = export("notes", 2, task="comments", parity={"split": "test", "rows": 12})
    hashes = [one.model_copy(update={"prediction": hashed(one.prediction)}) for one in made]
    hashes[3] = hashes[3].model_copy(update={"prediction": hashed("other"), "is_correct": False, "token_f1": 0.0})
    (folder / "predictions.jsonl").write_text("\n".join(one.model_dump_json(exclude_none=True) for one in hashes))
    with pytest.raises(StoreError, match="of which an export keeps hashes alone"):
        between(home, "notes", str(folder))
    same = between(home, "notes", str(folder), metric="token_f1", every_metric=True)
    assert same.differences["token_f1"].value == pytest.approx(-1 / 12)
    assert [pair.a.row for pair in same.changed] == [made[3].row]  # a hash of the same text is no change
    assert set(same.left_out) == {"chrf", "bleu", "rouge_l"}


def test_json_has_texts_only_where_they_are_asked_for(study: Study, home: Home, written: tuple[str, ...]) -> None:
    paths = study("notes", *written)
    keep(paths, 2, wrong(0, rows=12))
    keep(paths, None, wrong(1, 2, rows=12))
    found = between(home, "notes:base", "notes", metric="token_f1")
    said = as_dict(found, None, with_text=False)
    assert said["changed"]["count"] == 3
    assert {name: said["changed"][name] for name in ("became_right", "became_wrong", "other")} == {
        "became_right": 2,
        "became_wrong": 1,
        "other": 0,
    }
    assert "secret" not in json.dumps(said)
    assert "Close it" not in json.dumps(said)
    assert said["changed"]["rows"][0]["token_f1_b"] == 0.0
    found = between(home, "notes:base", "notes", metric="token_f1", with_text=True)
    row = as_dict(found, 1, with_text=True)["changed"]["rows"][0]
    assert (row["b"], row["truth"]) == ("nothing", "Return the name of a file.")
    assert "secret text" in row["text"]


def test_rows_without_their_text_are_said(study: Study, home: Home, data: Path) -> None:
    paths = study("demo")
    keep(paths, 2, wrong(0))
    keep(paths, None, wrong(1))
    (data / "test.jsonl").unlink()
    found = between(home, "demo", "demo:base", with_text=True)
    assert found.rows == {}
    assert "the data of the study cannot be read" in found.notes[0]
