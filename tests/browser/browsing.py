"""A Chromium that is installed already, and a page whose errors are collected."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, Response, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]
CURE = f"no Chromium ({', '.join(NAMES)}) in PATH: `make browser` installs one; or set SWEEPER_CHROMIUM=FILE"
# What MLflow 3.17's pages ask of every server, and its server answers only where it has accounts.
KNOWN = "/ajax-api/2.0/mlflow/users/current"
BENIGN = (
    "ResizeObserver loop completed with undelivered notifications."  # of MLflow's charts; Chromium's words for "later"
)
# MLflow's Assistant opens at the first visit to a server of this machine, and covers a quarter of the page.
QUIET = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
WAIT_MS = 60_000


def chromium() -> str | None:
    """The browser's file."""
    given = os.environ.get("SWEEPER_CHROMIUM")
    return given or next((file for name in NAMES if (file := shutil.which(name))), None)


@contextmanager
def browsing() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


class Watch:
    """What goes wrong on a page: its errors, and requests that failed or went elsewhere than to `origin`."""

    def __init__(self, page: Page, origin: str) -> None:
        self.problems: list[str] = []
        self._origin = origin
        page.on("console", self._console)
        page.on("pageerror", self._error)
        page.on("request", self._request)
        page.on("requestfailed", self._failed)
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        is_known = message.location["url"].endswith(KNOWN) or BENIGN in message.text
        if message.type == "error" and not is_known:
            self.problems.append(f"console: {message.text}")

    def _error(self, error: Error) -> None:
        if BENIGN not in error.message:
            self.problems.append(f"page error: {error.message}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self._origin, "data:", "blob:")):
            self.problems.append(f"a request elsewhere: {request.url}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # of a page that was left
            self.problems.append(f"failed ({request.failure}): {request.url}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and not response.url.endswith(KNOWN):
            self.problems.append(f"status {response.status}: {response.url}")


@contextmanager
def opened(browser: Browser, origin: str, width: int = 1600, height: int = 900, **options: Any) -> Iterator[Page]:
    """A page; whatever went wrong on it is an error at the end."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(QUIET)
    page = context.new_page()
    watch = Watch(page, origin)
    yield page
    context.close()
    assert not watch.problems, watch.problems


def shoot(page: Page, folder: Path, name: str, is_whole: bool = False) -> None:
    """Saves a picture of the window, or of the whole page; in SWEEPER_SCREENSHOTS where that is set."""
    where = Path(os.environ.get("SWEEPER_SCREENSHOTS", folder))
    where.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=where / f"{name}.png", full_page=is_whole)
