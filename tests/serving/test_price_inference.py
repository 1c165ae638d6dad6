"""`sweeper price-inference` on a study that was trained, and on its export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from mlflow import MlflowClient

from sweeper.cli.main import main
from sweeper.config import check
from sweeper.paths import StudyPaths
from sweeper.serving import record
from sweeper.tracking import place
from sweeper.tracking.operation import Kind, Operation
from sweeper.tracking.place import Place
from sweeper.tracking.spool import Spool
from sweeper.tracking.tracker import RunKey
from sweeper.trial import RunKind
from tests.mistakes.conftest import Make, data, make  # noqa: F401  (fixtures)

QUICK = ("--requests", "4", "--batches", "2")
PRICED = ("gpu.price_usd_per_hour=3.6", "--replaces", "api=0.01")


@pytest.fixture
def study(trained: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyPaths]:
    monkeypatch.setenv("SWEEPER_HOME", str(trained.home.root))
    yield trained
    trained.inference(0).unlink(missing_ok=True)


def command(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [*arguments], env={"COLUMNS": "120"})
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def logged(paths: StudyPaths) -> dict[str, float]:
    """What MLflow shows of the trial's serving."""
    client = MlflowClient(tracking_uri=paths.home.mlflow_url)
    [run] = client.search_runs(
        [client.get_experiment_by_name("demo").experiment_id], filter_string="tags.`sweeper.kind` = 'trial'"
    )
    assert run.info.status == "FINISHED"
    return {name: value for name, value in run.data.metrics.items() if name.startswith("inference/")}


def test_the_winner_is_measured_priced_kept_and_logged(study: StudyPaths) -> None:
    assert json.loads(command("best", "demo", "--json", "--force").stdout)["inference"] is None
    shown = command("price-inference", "demo", *QUICK, *PRICED, "--per-day", "1000").output
    assert "trial 0 of demo, the test rows of the study, on cpu" in shown
    assert "Price: $3.6 an hour (auto, on demand; your own price)" in shown
    assert "A month of 30.4 days, 1,000 requests a day (30,400)" in shown
    assert "2,626.56" in shown  # the card, all month
    assert str(study.inference(0)) in shown

    found = json.loads(study.inference(0).read_text())
    one, two = found["batches"]
    assert (one["batch"], two["batch"]) == (1, 2)
    for speed in (one, two):
        assert speed["latency_s"] > 0
        assert speed["usd_per_1000"] == pytest.approx(1 / speed["requests_per_s"])  # a tenth of a cent a second
        assert speed["tokens_per_s"] == pytest.approx(
            speed["requests_per_s"] * (found["prompt_tokens"] + found["answer_tokens"]), rel=0.5
        )
    assert 1 <= found["answer_tokens"] < 4  # one token is enough for most labels
    fastest = max(one, two, key=lambda speed: speed["requests_per_s"])
    assert found["best_batch"] == fastest["batch"]
    [api] = found["replaces"]
    assert api["usd_per_month"] == pytest.approx(304)
    assert api["times_busy"] == pytest.approx(10 / fastest["usd_per_1000"])

    metrics = logged(study)
    assert metrics["inference/requests_per_s"] == fastest["requests_per_s"]
    assert metrics["inference/latency_ms_batch1"] == one["latency_s"] * 1000
    assert metrics["inference/usd_per_1000"] == pytest.approx(fastest["usd_per_1000"])
    assert list(study.home.artifacts.glob("demo/*/artifacts/inference.json"))
    assert json.loads(command("best", "demo", "--json", "--force").stdout)["inference"] == found

    # Without a price there are no dollars: not in what is shown, nor left over in MLflow.
    done = command("price-inference", "demo", *QUICK, "--json")
    again: dict[str, Any] = json.loads(done.stdout)
    assert again["price"] is None
    assert {speed["usd_per_1000"] for speed in again["batches"]} == {None}
    assert "No price, so no dollars: gpu.price_usd_per_hour sets your own" in again["note"]
    assert "batch 1: " in done.stderr
    metrics = logged(study)
    assert metrics["inference/usd_per_1000"] != metrics["inference/usd_per_1000"]  # not a number
    assert metrics["inference/latency_ms_batch1"] == again["batches"][0]["latency_s"] * 1000


def test_an_exported_folder_is_measured_on_rows_of_its_study_or_of_a_file(study: StudyPaths, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    command("export", "demo", "--to", str(folder), "--force")
    shown = command("price-inference", str(folder), *QUICK, "gpu.billing=free").output
    assert "the test rows of its study" in shown
    assert "Price: $0 an hour (auto, free)" in shown
    assert not (folder / "inference.json").exists()

    (tmp_path / "rows.csv").write_text("text\nthe app closes\nmy parcel has not come since monday\n")
    rows = ("--rows", str(tmp_path / "rows.csv"))
    found = json.loads(command("price-inference", str(folder), *rows, *QUICK, "--gpu", "t4", "--save", "--json").stdout)
    assert json.loads((folder / "inference.json").read_text()) == found
    assert found["prompt_tokens"] < 30  # of these rows
    assert "The price is that of Tesla T4, but it was measured on cpu" in found["note"]
    command("predict", str(folder), "the app closes")  # is whole yet

    (tmp_path / "empty.csv").write_text("text\n")
    for given, expected in (("rows.txt", "--rows: must be one of"), ("no.csv", "No such file"), ("empty.csv", "none")):
        assert expected in command("price-inference", str(folder), "--rows", str(tmp_path / given), code=2).stderr
    trained, moved = study.config, tmp_path / "config.yaml"
    shutil.move(trained, moved)
    try:
        assert "give requests with --rows FILE" in command("price-inference", str(folder), code=2).stderr
    finally:
        shutil.move(moved, trained)


def test_what_cannot_be_measured_is_said(study: StudyPaths, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        return command("price-inference", *arguments, code=2).stderr

    assert "unknown study `dmo`; did you mean `demo`" in refused("dmo")
    assert "must be a study of the store or a folder" in refused("/nowhere")
    assert "an exported folder has a readable sweeper.json" in refused(str(tmp_path))
    assert "'demo' has the trials 0 to 0, but not 7" in refused("demo", "--trial", "7")
    assert "--per-day" in refused("demo", "--per-day", "0")
    assert "--batches: must be whole numbers above 0" in refused("demo", "--batches", "4,x")
    assert "NAME=USD_PER_CALL" in refused("demo", "--replaces", "api")
    assert "are for an exported folder" in refused("demo", "--save")
    assert "--trial is for a study" in refused(str(tmp_path), "--trial", "0")
    with FileLock(study.work_lock):
        assert "nothing of a study may run meanwhile, but 'demo' is held" in refused("demo")
    hidden = study.adapter(0).with_name("hidden")
    study.adapter(0).rename(hidden)
    try:
        assert "the adapter of trial 0 must still be there" in refused("demo")
    finally:
        hidden.rename(study.adapter(0))


def test_a_study_without_a_winner_has_no_price(make: Make) -> None:  # noqa: F811
    make()
    said = command("price-inference", "demo", code=2).stderr
    assert "what is priced is the winner, but 'demo' has none (no trials yet)" in said


def test_runs_that_are_elsewhere_are_not_logged_to_the_store(study: StudyPaths) -> None:
    kept = study.tracking.read_text()
    place.keep(study, Place("http://127.0.0.1:9", "theirs"))
    try:
        lines: list[str] = []
        record.log(study, check.load(study), 0, 32, {"inference/best_batch": 64.0}, lines.append)
    finally:
        study.tracking.write_text(kept)
    assert "the study's runs are in experiment 'theirs' at http://127.0.0.1:9, where this is not logged" in lines[0]
    assert logged(study).get("inference/best_batch") != 64
    record.log(study, check.load(study), 5, 32, {"inference/best_batch": 64.0}, lines.append)
    assert "MLflow has no run of trial 5 any more" in lines[1]


def test_a_run_that_waits_to_be_sent_is_said_to(study: StudyPaths) -> None:
    spool = Spool(study.spool, "worker-0")
    spool.add(Operation(Kind.END, RunKey(RunKind.TRIAL, 5), {"state": "FINISHED", "tags": {}}))
    spool.close()
    lines: list[str] = []
    try:
        record.log(study, check.load(study), 5, 32, {"inference/best_batch": 64.0}, lines.append)
    finally:
        shutil.rmtree(study.spool)
    assert "1 write to the study's runs waits" in lines[0]
    assert lines[0].endswith("or the next launch, sends them: this is not logged there")
