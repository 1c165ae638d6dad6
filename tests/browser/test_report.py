"""The report in a browser: on a wide window and on a telephone's, light and dark, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser

from sweeper.cli.main import main
from sweeper.paths import Home
from tests.benchmarks.many_trials import NAME
from tests.browser.browsing import opened, shoot

SIZES = {"wide": (1440, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def report(made_up: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    done = CliRunner().invoke(main, ["report", NAME, "--to", str(file)], env={"SWEEPER_HOME": str(made_up.root)})
    assert done.exit_code == 0, done.output
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_everything_is_there_and_fits(report: Path, browser: Browser, tmp_path: Path, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    with opened(browser, report.as_uri(), width, height, color_scheme=scheme, device_scale_factor=1) as page:
        page.goto(report.as_uri())
        page.wait_for_load_state()
        shoot(page, tmp_path, f"report-{size}-{scheme}", is_whole=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate(
            """[...document.querySelectorAll('img, svg')].filter(one => one.checkVisibility()).map(one => [
                one.tagName == 'IMG' ? one.naturalWidth : one.getBoundingClientRect().width,
                one.getBoundingClientRect().width, one.getBoundingClientRect().height])"""
        )
        assert sizes, "no picture is visible"
        assert all(natural > 0 and shown > 0 and tall > 0 for natural, shown, tall in sizes)
