"""optuna-dashboard on a study's storage, as `sweeper ui --optuna` shows it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from sweeper.paths import Home
from tests.benchmarks.many_trials import NAME
from tests.browser.browsing import opened, shoot
from tests.cli.serving import origin_of, serving

pytest.importorskip(
    "optuna_dashboard", reason="optuna-dashboard is not installed: pip install 'sweeper[optuna-dashboard]'"
)


def test_the_dashboard_opens_on_the_same_storage(made_up: Home, browser: Browser, tmp_path: Path) -> None:
    with serving(made_up, NAME, "--optuna") as link:
        with urllib.request.urlopen(f"{origin_of(link)}/api/studies") as answer:
            [study] = json.load(answer)["study_summaries"]
        assert study["study_name"] == NAME
        assert link.endswith(f"/dashboard/studies/{study['study_id']}")
        with opened(browser, origin_of(link)) as page:
            page.goto(link)
            points = page.locator(".js-plotly-plot .scatterlayer path.point")
            points.first.wait_for(state="attached")
            shoot(page, tmp_path, "optuna-dashboard")
            assert points.count() >= 6  # one for each complete trial
