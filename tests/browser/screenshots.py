"""The README's pictures of a finished study, taken as a person sees it: MLflow's table of runs, and the report.

SWEEPER_HOME=sweeps python tests/browser/screenshots.py --study demo --to studies/demo
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from sweeper.cli.main import main as sweeper
from sweeper.paths import Home
from tests.browser.browsing import CURE, browsing, chromium, opened
from tests.cli.serving import origin_of, serving

COLOURS = 128  # of a picture: enough for a page, and a third of the bytes


def keep(page: Page, file: Path) -> None:
    """Writes what the window shows, small."""
    with Image.open(io.BytesIO(page.screenshot())) as shown:
        shown.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def runs(browser: Browser, home: Home, study: str, file: Path) -> None:
    """The table of runs, best first."""
    with serving(home, study) as link, opened(browser, origin_of(link), width=1700, height=560) as page:
        page.goto(link)
        page.locator(".ag-center-cols-container .ag-row").first.wait_for()
        page.locator(
            "//button[contains(., 'Exit shared view')]/following::button[1]"
        ).click()  # the word that a view is shared
        page.wait_for_timeout(1000)  # until the rows have moved up
        keep(page, file)


def report(browser: Browser, home: Home, study: str, file: Path) -> None:
    """The head of the report."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "report.html"
        command = [sys.executable, "-m", "sweeper", "report", study, "--to", str(written)]
        subprocess.run(command, env={**os.environ, "SWEEPER_HOME": str(home.root)}, check=True)
        with opened(browser, written.as_uri(), width=1100, height=900) as page:
            page.goto(written.as_uri())
            page.wait_for_load_state()
            keep(page, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--to", type=Path, required=True, help="a folder: runs.png, report.png")
    arguments = parser.parse_args()
    if chromium() is None:
        raise SystemExit(CURE)
    home = Home.from_environment()
    arguments.to.mkdir(parents=True, exist_ok=True)
    with browsing() as browser:
        runs(browser, home, arguments.study, arguments.to / "runs.png")
        if "report" in sweeper.commands:
            report(browser, home, arguments.study, arguments.to / "report.png")


if __name__ == "__main__":
    main()
