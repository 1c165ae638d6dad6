"""What `import sweeper` offers, used as a script or a notebook does."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import sweeper
from sweeper.money.price import Price
from sweeper.paths import Home
from sweeper.search.storage import open_storage
from tests.conftest import SHORT
from tests.launch.test_launch import wait_for

MOST_NAMES = 25


def options(few_tickets: Path, *others: str) -> list[str]:
    return [*SHORT, f"data.path={few_tickets}", *others]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, few_tickets: Path) -> Path:
    """A store whose name needs quotes and is not ASCII, with the finished study `demo`."""
    folder = tmp_path_factory.mktemp("api") / "a störe, mine"
    events: list[dict[str, Any]] = []
    launched = sweeper.launch(*options(few_tickets), home=folder, on_event=events.append)
    assert not launched.is_running
    assert launched.result is not None
    assert launched.result["outcome"] == "finished"
    assert [event["number"] for event in events if event["event"] == "trial_ended"] == [0, 1, 2]
    assert launched.study == sweeper.load_study("demo", home=folder)
    return folder


def test_every_name_is_there_has_types_and_says_what_it_is() -> None:
    assert len(sweeper.__all__) <= MOST_NAMES
    assert set(dir(sweeper)) == set(sweeper.__all__)
    for name in set(sweeper.__all__) - {"__version__"}:
        found = getattr(sweeper, name)
        assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            hints = inspect.signature(found)
            assert all(one.annotation is not inspect.Parameter.empty for one in hints.parameters.values())
            assert hints.return_annotation is not inspect.Signature.empty
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        sweeper.lunch  # noqa: B018


def test_a_study_is_looked_at(store: Path) -> None:
    assert sweeper.list_studies(home=store) == ["demo"]
    study = sweeper.load_study("demo", home=store)
    assert (study.name, study.is_finished, study.usd) == ("demo", True, None)
    assert study.device_s > 0
    assert isinstance(study.best, sweeper.Trial)
    assert study.test["trial"] == study.best.number
    rows = study.rows()
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert rows[study.best.number]["value"] == study.best.value == max(row["value"] or 0.0 for row in rows)
    assert all(row["params.rank"] in (4, 8, 16, 32, 64) for row in rows)
    assert repr(study).startswith(f"<Study demo: 3 trials, best trial {study.best.number}: ")
    with pytest.raises(sweeper.StoreError, match="unknown study `nothing`"):
        sweeper.load_study("nothing", home=store)
    assert sweeper.list_studies(home=store.with_name("nowhere")) == []


def test_each_trial_has_its_own_cost_and_not_the_study_s_until_then(store: Path, tmp_path: Path) -> None:
    priced = Path(shutil.copytree(store, tmp_path / "priced"))
    a_second = json.dumps(asdict(Price(3600.0, False, 0.0, 0.0, None, "a card", "us")))  # is a dollar
    for home, is_priced in ((store, False), (priced, True)):
        if is_priced:
            engine = open_storage(Home(home)).engine
            with engine.begin() as connection:
                connection.execute(text("UPDATE sweeper_sessions SET price = :price"), {"price": a_second})
        study = sweeper.load_study("demo", home=home)
        rows = study.rows()
        assert all(row["device_s"] > 0 for row in rows)
        assert sum(row["device_s"] for row in rows) < study.device_s  # loading and the test are nobody's
        assert [row["usd"] for row in rows] == pytest.approx([row["device_s"] if is_priced else None for row in rows])


def test_the_winner_is_exported_and_answers(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = sweeper.load_study("demo", home=store).export(tmp_path / "out", parity=False, force=True)
    assert manifest["study"] == "demo"
    adapter = sweeper.Adapter(tmp_path / "out", home=store)
    label = adapter("my parcel is late")
    assert label in manifest["labels"]
    assert adapter.predict([{"text": "my parcel is late"}, {"text": "the app closes"}])[0] == label
    with pytest.raises(sweeper.ExportError):
        sweeper.export("demo", tmp_path / "out", home=store, parity=False)  # it is in the way


def test_a_launch_that_does_not_block_can_be_stopped_and_goes_on(home: Home, few_tickets: Path) -> None:
    given = options(few_tickets, "train.examples=4000", "search.trials=2")
    begun: list[str] = []
    launched = sweeper.launch(*given, block=False, on_event=lambda event: begun.append(event["event"]))
    assert launched.is_running
    with pytest.raises(TimeoutError, match=r"'demo' still runs after 0\.01 s"):
        launched.wait(0.01)
    while "trial_started" not in begun:
        assert launched.is_running
        time.sleep(0.05)
    with pytest.raises(sweeper.StoreError, match="one launcher per study"):  # and the first one's events stay its own
        sweeper.launch(*given)
    assert launched.result is None
    launched.stop()
    assert launched.result is not None
    assert (launched.result["outcome"], launched.study.is_finished) == ("stopped", False)
    assert launched.wait().trials == launched.study.trials  # to be stopped is no error


def test_what_on_event_raises_is_raised_once_the_search_has_ended(home: Home, few_tickets: Path) -> None:
    seen: list[str] = []

    def broken(event: dict[str, object]) -> None:
        seen.append(str(event["event"]))
        raise KeyError("no such column")

    launched = sweeper.launch(*options(few_tickets, "search.trials=1"), block=False, on_event=broken)
    with pytest.raises(KeyError, match="no such column"):
        launched.wait()
    assert len(seen) == 1
    assert launched.result is not None
    assert (launched.result["outcome"], launched.study.is_finished) == ("finished", True)


def test_a_launch_goes_on_where_its_script_has_ended(home: Home, few_tickets: Path) -> None:
    given = options(few_tickets, "search.trials=1")
    script = f"import sweeper; print(sweeper.launch(*{given!r}, block=False).is_running)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "True\n"
    log = home.study("demo").worker_log(0)
    wait_for(lambda: log.is_file() and "worker 0 of demo ends: finished" in log.read_text(encoding="utf-8"))
    assert sweeper.load_study("demo").is_finished


def test_what_is_wrong_is_raised_as_what_it_is(home: Home, few_tickets: Path, tmp_path: Path) -> None:
    with pytest.raises(sweeper.ConfigError, match=r"search\.trials"):
        sweeper.launch("study=demo", "search.trials=-1", block=False)
    for wrong, words in (
        (["study=demo", "--cfg", "job"], "--cfg"),
        (["study=nowhere"], "unknown option `nowhere`"),
        ([], "study"),
    ):
        with pytest.raises(sweeper.ConfigError, match=words):  # and the caller's process goes on
            sweeper.launch(*wrong, block=False)
    with pytest.raises(sweeper.DataError, match=r"there is no .*nowhere"):
        sweeper.launch(*SHORT, f"data.path={tmp_path / 'nowhere'}")


def test_an_import_loads_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "optuna", "transformers")
    code = f"import sys, sweeper; sweeper.launch; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]", done.stderr
