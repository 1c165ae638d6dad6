"""`sweeper compare` as a person sees it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sweeper.cli.compare import verdict
from sweeper.cli.main import main
from sweeper.comparison.scores import DRAWS, Difference, Score
from sweeper.paths import Home
from tests.cli.test_cli import python
from tests.comparison.conftest import Export, Study, data, export, keep, study, wrong  # noqa: F401  (fixtures)
from tests.comparison.test_costs import served


def sweeper(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, arguments, env={"COLUMNS": "120"})
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


def test_a_winner_and_its_base(study: Study, home: Home) -> None:  # noqa: F811
    paths = study("demo")
    for number, places in ((2, (0,)), (1, (0, 1)), (None, range(12))):
        keep(paths, number, wrong(*places))
    shown = sweeper("compare", "demo:base", "demo", "--rows", "2")
    assert "On 16 test rows A: demo, the untuned base B: demo, trial 2, the winner: rank " in shown
    assert "accuracy 0.250 ± 0.102 0.938 ± 0.080 +0.688" in shown
    assert "B is better than A by 0.688 in accuracy (95 %: 0." in shown
    assert "more than which rows there are explains." in shown
    assert "Right or wrong: both right 4, only A 0, only B 11, both wrong 1; McNemar's exact test p = 0.00098" in shown
    assert "11 of 16 predictions differ: 11 became right, 0 became wrong, 0 stayed right or wrong" in shown
    assert "Changed rows: 2 of 11 row B right A said B said" in shown
    assert "test.jsonl:2 right return nothing return" in shown
    assert "please" not in shown
    assert "What serving B takes is not measured, and its adapter is not kept" in shown
    assert "scored once (trials 1, 2 and the untuned base), and 1 pair was compared on it. Each choice that" in shown
    assert sweeper("compare", "demo", "demo:base").count("B is worse than A by 0.688 in accuracy") == 1
    assert "and 1 pair was compared on it. Each choice" in sweeper("best", "demo", "--force")
    assert "please [red]test 1" in sweeper("compare", "demo:base", "demo", "--rows", "2", "--text")

    paths.inference(2).write_text(json.dumps(served(8.0)))
    shown = sweeper("compare", "demo:1", "demo", "--rows", "0")
    assert "No difference that could not come from which rows there are: accuracy B − A is +0.062" in shown
    assert "ms per request, one at a time – 8" in shown
    assert "requests/s, best batch – 500" in shown
    assert "$ per 1,000 requests – 0.25" in shown
    assert "Changed rows" not in shown
    assert "and 2 pairs were compared on it. Each choice" in sweeper("status", "demo")
    assert json.loads(sweeper("status", "demo", "--json"))["test_use"]["pairs"] == [
        ["the untuned base", "trial 2"],
        ["trial 1", "trial 2"],
    ]


def test_json_and_csv(study: Study, home: Home, tmp_path: Path) -> None:  # noqa: F811
    paths = study("demo")
    keep(paths, 2, wrong(0))
    keep(paths, None, wrong(3, 4))
    file = tmp_path / "changed.csv"
    found = json.loads(sweeper("compare", "demo:base", "demo", "--json", "--csv", str(file)))
    assert (found["rows"], found["metric"], found["verdict"], list(found["metrics"])) == (
        *(16, "accuracy", "alike"),
        ["accuracy", "macro_f1"],
    )
    assert found["right_wrong"] == {"both_right": 13, "only_a": 1, "only_b": 2, "both_wrong": 0, "p": 1.0}
    assert [row["change"] for row in found["changed"]["rows"]] == ["became_wrong", "became_right", "became_right"]
    assert found["changed"]["rows"][0] | {"sha256": ""} == {
        "row": "test.jsonl:1",
        "row_b": "test.jsonl:1",
        "sha256": "",
        "change": "became_wrong",
        "truth": "cancel",
        "a": "cancel",
        "b": "nothing",
        "confidence_a": 0.9,
        "confidence_b": 0.9,
        "token_f1_a": None,
        "token_f1_b": None,
        "text": None,
    }
    assert (found["a"]["trial"], found["b"]["trial"], found["b"]["folder"]) == (None, 2, None)
    assert found["test_use"] == {"demo": {"scored": 1, "trials": [1, 2], "pairs": [["the untuned base", "trial 2"]]}}
    with file.open(newline="", encoding="utf-8") as opened:
        table = list(csv.DictReader(opened))
    assert [row["row"] for row in table] == ["test.jsonl:1", "test.jsonl:4", "test.jsonl:5"]
    assert {row["text"] for row in table} == {""}
    shown = sweeper("compare", "demo:base", "demo", "--text", "--csv", str(file))
    assert f"all 3 changed rows, with their text: {file}" in shown
    assert "please please please [red]test 3" in file.read_text()
    assert len(json.loads(sweeper("compare", "demo", "demo:base", "--json", "--rows", "1"))["changed"]["rows"]) == 1


def test_an_export_beside_its_study(study: Study, home: Home, export: Export) -> None:  # noqa: F811
    paths = study("demo")
    keep(paths, 2, wrong(0))
    folder = export("demo", 2, parity={"split": "test", "rows": 16})
    (folder / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    keep(paths, None, wrong(0), to=folder / "predictions.jsonl")
    shown = sweeper("compare", "demo", str(folder))
    assert "B: exported (demo, trial 2), the winner, as exported: rank" in shown
    assert "All predictions are the same." in shown
    assert "sweeper price-inference" in shown
    assert "exported --save" in shown


def test_what_cannot_be_compared_is_said(study: Study, home: Home) -> None:  # noqa: F811
    paths = study("demo")
    keep(paths, 2, wrong(0))
    assert "there are those of: trial 2. --split validation" in sweeper("compare", "demo", "demo:0", code=2)
    assert "must be two" in sweeper("compare", "demo", "demo", code=2)
    keep(paths, None, wrong(0))
    assert "unknown metric `bleu`" in sweeper("compare", "demo", "demo:base", "--metric", "bleu", code=2)
    assert "--csv must be a file that can be written" in sweeper(
        "compare", "demo", "demo:base", "--csv", "/nowhere/x.csv", code=2
    )
    keep(paths, 2, wrong(0), "validation")
    keep(paths, 0, wrong(1), "validation")
    assert "note: The validation rows chose the winner" in sweeper("compare", "demo", "demo:0", "--split", "validation")


def scored(a: float, b: float, is_minimized: bool | None) -> str:
    draws = np.random.default_rng(0).normal(0.0, 0.001, DRAWS)
    one = Difference.of("cost", Score(a, None, draws * 0 + a), Score(b, None, b + draws), is_minimized)
    return verdict(one)


def test_the_sentence_says_which_way_a_metric_goes() -> None:
    assert scored(1.5, 0.5, True).startswith(
        "B is better than A by 1.000 in cost, of which less is better (95 %: 0.998 to"
    )
    assert scored(0.5, 1.5, True).startswith(
        "B is worse than A by 1.000 in cost, of which less is better (95 %: 0.998 to"
    )
    assert scored(0.5, 1.5, None).startswith("B is higher than A by 1.000 in cost (95 %")
    assert scored(0.5, 1.5, None).endswith("Which is better, only whoever wrote that metric knows.")
    assert scored(0.5, 0.5, True).startswith(
        "No difference that could not come from which rows there are: cost B − A is"
    )


def test_it_loads_no_model_library(study: Study, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    paths = study("demo")
    keep(paths, 2, wrong(0))
    keep(paths, None, wrong(1))
    code = (
        "import sys\nfrom sweeper.cli.main import main\n"
        "try: main(['compare', 'demo', 'demo:base', '--json', '--text'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'mlflow', 'datasets') if m in sys.modules], file=sys.stderr)"
    )
    done = python(code)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["changed"]["count"] == 2
