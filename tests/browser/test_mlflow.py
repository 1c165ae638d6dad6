"""MLflow's pages on a finished study, as `sweeper ui` shows them: nothing of ours is missing or in error."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Browser, Page, expect

from sweeper.paths import Home
from tests.benchmarks.many_trials import NAME
from tests.browser.browsing import WAIT_MS, opened, shoot
from tests.browser.conftest import FULL
from tests.cli.serving import origin_of, serving
from tests.conftest import made_up_study

MODEL_TRAINING = "workflowType=machine_learning"
MANY = os.environ.get("SWEEPER_MANY")  # a store that `tests/benchmarks/many_trials.py` has built
FIRST_ROWS_S = 5.0  # what the first hundred rows may take; a busy machine has four times as long


@dataclass(frozen=True)
class Served:
    """A store whose runs are shown, and what MLflow's own client says of them."""

    link: str
    experiment: str
    runs: dict[str, Run]

    @property
    def origin(self) -> str:
        return origin_of(self.link)

    def named(self, start: str) -> Run:
        [found] = [run for name, run in self.runs.items() if name.startswith(start)]
        return found

    def page_of(self, run: Run, tab: str = "") -> str:
        return f"{self.origin}/#/experiments/{self.experiment}/runs/{run.info.run_id}{tab}?{MODEL_TRAINING}"


@pytest.fixture(scope="module")
def served(finished: Home, browser: Browser) -> Iterator[Served]:
    client = MlflowClient(tracking_uri=finished.mlflow_url)
    experiment = client.get_experiment_by_name("demo").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    with serving(finished, "demo") as link:
        yield Served(link, experiment, runs)


@pytest.fixture
def page(served: Served, browser: Browser) -> Iterator[Page]:
    with opened(browser, served.origin, width=2600) as shown:  # columns out of sight are not drawn
        yield shown


def rows_of(page: Page) -> dict[str, str]:
    """The text of each row of the table of runs, by its run's name."""
    page.get_by_text(re.compile(r"[1-9]\d* matching run")).wait_for()
    page.locator(".ag-pinned-left-cols-container .ag-row").get_by_role("link").first.wait_for()
    names = page.locator(".ag-pinned-left-cols-container .ag-row").all()
    rest = page.locator(".ag-center-cols-container .ag-row").all()
    by_index = {row.get_attribute("row-index"): row.inner_text() for row in rest}
    return {row.get_by_role("link").first.inner_text(): by_index[row.get_attribute("row-index")] for row in names}


def test_the_link_shows_all_runs_with_what_they_are_compared_by(page: Page, served: Served, tmp_path: Path) -> None:
    page.goto(served.link)
    rows = rows_of(page)
    shoot(page, tmp_path, "runs")
    assert set(rows) == set(served.runs)
    assert len(rows) == 5  # the study, its base, three trials
    states = [next((word for word in text.split("\n") if word.isupper()), "") for text in rows.values()]
    assert sorted(states) == ["", "", "COMPLETE", "COMPLETE", "PRUNED"]
    assert "wrecked" in next(text for name, text in rows.items() if name.startswith("t02"))
    heads = page.locator(".ag-header-cell").all_inner_texts()
    assert {"best_value", "accuracy", "learning_rate", "rank", "sweeper.state"} <= set(heads)
    best = served.named("t00").data.metrics["best_value"]
    assert f"{best:g}" in next(text for name, text in rows.items() if name.startswith("t00"))
    assert list(rows)[:2] == sorted(list(rows)[:2], key=lambda name: -served.runs[name].data.metrics["best_value"])


def test_trials_are_children_of_their_study(page: Page, served: Served, tmp_path: Path) -> None:
    page.goto(f"{served.origin}/#/experiments/{served.experiment}/runs?{MODEL_TRAINING}")
    assert set(rows_of(page)) == {"demo"}
    page.locator(".ag-pinned-left-cols-container .ag-row").get_by_role("button").first.click()
    expect(page.locator(".ag-pinned-left-cols-container .ag-row")).to_have_count(5, timeout=WAIT_MS)
    shoot(page, tmp_path, "children")
    assert set(rows_of(page)) == set(served.runs)


def test_a_trial_has_its_curves(page: Page, served: Served, tmp_path: Path) -> None:
    page.goto(served.page_of(served.named("t00"), "/model-metrics"))
    page.get_by_placeholder("Search metric charts").fill("train/loss")
    chart = page.locator(".js-plotly-plot .scatterlayer path.js-line").first
    expect(chart).to_have_attribute(
        "d", re.compile("(L.*){10}"), timeout=WAIT_MS
    )  # of sixteen steps, corners of the line
    shoot(page, tmp_path, "metrics")


def test_two_trials_compare(page: Page, served: Served, tmp_path: Path) -> None:
    runs = [served.named(name) for name in ("t00", "t01")]
    ids = json.dumps([run.info.run_id for run in runs])
    page.goto(f'{served.origin}/#/compare-runs?runs={ids}&experiments=["{served.experiment}"]&{MODEL_TRAINING}')
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    for run in runs:
        assert page.get_by_text(run.info.run_name, exact=True).first.is_visible()
    for name in ("rank", "learning_rate", "accuracy", "best_value"):
        expect(page.get_by_text(name, exact=True).first).to_be_attached(timeout=WAIT_MS)
    shoot(page, tmp_path, "compare")


def test_a_trial_has_its_adapter(page: Page, served: Served, tmp_path: Path) -> None:
    page.goto(served.page_of(served.named("t00"), "/artifacts"))
    page.get_by_text("adapter", exact=True).click()
    page.get_by_text("adapter_model.safetensors").wait_for()
    page.get_by_text("adapter_config.json").click()
    page.get_by_text('"base_model_name_or_path"').first.wait_for()
    shoot(page, tmp_path, "adapter")


def test_the_study_says_what_it_is(page: Page, served: Served, tmp_path: Path) -> None:
    said = served.named("demo").data.tags["mlflow.note.content"]
    words = next(line for raw in said.splitlines() if (line := re.sub(r"[#*`|_]", "", raw).strip()))
    page.goto(served.page_of(served.named("demo")))
    page.get_by_text(words).first.wait_for()
    shoot(page, tmp_path, "study")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not FULL and MANY is None, reason="building a thousand trials takes minutes: SWEEPER_TESTS=all")
def test_the_first_hundred_rows_of_many_come_at_once(
    browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(Path(MANY)) if MANY is not None else made_up_study(tmp_path / "store", 1000)
    with serving(home, NAME) as link, opened(browser, origin_of(link)) as page:
        started = time.monotonic()
        page.goto(link)
        page.locator(".ag-pinned-left-cols-container .ag-row").get_by_role("link").first.wait_for()
        took_s = time.monotonic() - started
        rows = rows_of(page)
        shoot(page, tmp_path, "many")
        shown = page.get_by_text(re.compile(r"[1-9]\d* matching run")).inner_text()
    with capsys.disabled():
        print(f"\nthe first rows of 1,000 trials: {took_s:.1f} s ({shown})")
    assert "100" in shown
    assert len(rows) >= 10  # those below the window are drawn as one scrolls
    assert took_s < 4 * FIRST_ROWS_S
