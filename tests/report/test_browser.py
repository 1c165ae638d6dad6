"""A report as a browser shows it: nothing is wider than the page, and every picture is there."""

from __future__ import annotations

import html as escaping
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.plots.album import Album
from sweeper.plots.picture import Picture, picture
from sweeper.report.figures import drawn
from sweeper.report.html import html
from sweeper.report.report import content
from tests.launch.test_tables import trial
from tests.report.conftest import MakeFacts

WIDTHS = (1440, 390)  # in frames: a browser's own window is not as narrow as a telephone
# For each frame: how wide the page is, its pictures with their width and the theme of the file that is shown, and
# whether anything reaches out of the page that does not scroll by itself.
PROBE = """<!doctype html><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => setTimeout(() => {{
  const frames = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, root = page.documentElement;
    const out = [...page.querySelectorAll("body *")].filter((one) =>
      !one.closest(".wide, pre") && one.getBoundingClientRect().right > root.clientWidth + 1);
    return {{
      width: root.clientWidth, needed: root.scrollWidth, out: out.map((one) => one.outerHTML.slice(0, 80)),
      images: [...page.images].map((one) => [one.complete && one.naturalWidth > 0, one.currentSrc.length]),
      paper: getComputedStyle(root).backgroundColor,
    }};
  }});
  document.getElementById("found").textContent = JSON.stringify(frames);
}}, 300));
</script>"""


def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("SWEEPER_CHROMIUM") or next((file for name in names if (file := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium ({', '.join(names)}) in PATH; SWEEPER_CHROMIUM=FILE names one")
    return found


def probe(folder: Path, source: str, *flags: str) -> tuple[list[dict[str, Any]], str]:
    """What the frames have, and what the browser's console said."""
    (folder / "report.html").write_text(source, encoding="utf-8")
    frames = "".join(f'<iframe src="report.html" width="{width}" height="800"></iframe>' for width in WIDTHS)
    (folder / "probe.html").write_text(PROBE.format(frames=frames), encoding="utf-8")
    done = subprocess.run(
        [
            *(browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
            *(f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--window-size=1900,900"),
            *("--virtual-time-budget=20000", *flags, "--dump-dom", (folder / "probe.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    shutil.rmtree(folder / "profile", ignore_errors=True)
    match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert match is not None, done.stderr
    return json.loads(escaping.unescape(match[1])), "\n".join(re.findall(r".*CONSOLE.*", done.stderr))


def test_no_overflow_and_all_pictures_in_both_themes(facts: MakeFacts, tmp_path: Path) -> None:
    browser()
    long = "a_name_that_is_longer_than_a_telephone_is_wide_and_has_no_place_to_break" * 2
    trials = [trial(number, 0.5 + number / 100, params={"rank": 8, long: "x" * 90}) for number in range(12)]
    trials.append(trial(12, None, state="FAIL", detail=f"at {long}"))
    found = facts(f"study.description={long}", trials=trials)
    found = replace(found, seen=replace(found.seen, name=long[:64]))
    shown: list[Picture] = [picture(name, name.title(), f"{name} says {long}", _fill) for name in ("one", "two")]
    source = html(content(found, drawn(Album(shown, [])).blocks))

    light, said = probe(tmp_path, source)
    dark, also_said = probe(tmp_path, source, "--blink-settings=preferredColorScheme=0")
    assert (said, also_said) == ("", "")
    for frame, width in zip([*light, *dark], WIDTHS * 2, strict=True):
        assert frame["needed"] <= frame["width"] <= width
        assert frame["out"] == []
        assert [is_there for is_there, _ in frame["images"]] == [True, True]
    assert light[0]["paper"] == "rgb(255, 255, 255)" != dark[0]["paper"]
    assert light[0]["images"] != dark[0]["images"]


def _fill(figure: Any, theme: Any) -> None:
    figure.add_subplot().plot([0, 1], [0, 1], color=theme.plain, label=theme.name)
