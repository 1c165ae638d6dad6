"""`sweeper report` on real stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from sweeper.cli.main import main
from sweeper.paths import Home
from tests.housekeeping.conftest import Make, snapshot
from tests.report.test_report import Page


def report(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments])


def test_in_the_studys_folder_without_touching_anything_else(make: Make, home: Home) -> None:
    paths = make()
    before = snapshot(home.root)
    result = report("demo")
    assert result.exit_code == 0, result.output
    assert result.output.split() == [str(paths.report_page), str(paths.report_text)]
    new = {name: content for name, content in snapshot(home.root).items() if name not in before}
    pictures = sorted(Path(name).name for name in new if "/pictures/" in name)
    assert {Path(name).name for name in new} - set(pictures) == {"report.html", "report.md"}
    assert {name: content for name, content in snapshot(home.root).items() if name in before} == before
    assert {path.name for path in paths.root.iterdir()} <= paths.known
    page, text = Page(paths.report_page.read_text()), paths.report_text.read_text()
    assert pictures
    assert len(page.all("img")) == len(pictures)
    assert all(f"](pictures/{name})" in text for name in pictures)
    assert "So far the best is trial 1" in page.text
    assert report("demo").exit_code == 0  # over what is there
    assert paths.report_page.stat().st_mode & 0o777 == 0o644


WHERE = [
    (["--to", "there.html"], ["there.html"]),
    (["--to", "new/there.MD"], ["new/there.MD"]),
    (["--to", "there", "--format", "html"], ["there/report.html"]),
    (["--to", "beside", "--format", "markdown"], ["beside/report.md"]),
]


def test_where_it_is_asked_for(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make()
    monkeypatch.chdir(tmp_path)
    for arguments, files in WHERE:
        result = report("demo", *arguments, "--json")
        assert result.exit_code == 0, result.output
        said = json.loads(result.output)
        assert said["files"] == [str(tmp_path / file) for file in files]
        assert said["study"] == "demo"
        assert said["answer"].startswith("So far the best is trial 1")
        assert all("What won, and how sure we are" in (tmp_path / file).read_text() for file in files)
    assert [folder.parent.name for folder in tmp_path.glob("*/pictures")] == ["beside"]
    assert not paths.report_page.exists()


BAD = [
    (["other"], "unknown study `other`"),
    (["demo", "--to", "x.md", "--format", "html"], "--format must be markdown where --to is x.md, but is html"),
    (["demo", "--to", "/proc/report.md"], "a report must go where it can be written, but /proc/"),
    (["demo", "--to", "/proc/report", "--format", "markdown"], "a report must go where it can be written, but /proc/"),
    (["demo", "--format", "pdf"], "'pdf' is not one of 'html', 'markdown', 'both'"),
]


def test_what_cannot_be_is_said(make: Make) -> None:
    paths = make()
    for arguments, expected in BAD:
        result = report(*arguments)
        assert result.exit_code == 2
        assert expected in result.output
        assert "Traceback" not in result.output
    paths.data.write_text("{")
    result = report("demo")
    assert result.exit_code == 2
    assert f"{paths.data} must be JSON" in result.output


def test_while_a_launcher_holds_the_study(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make()
    monkeypatch.chdir(tmp_path)
    with FileLock(paths.launcher_lock):
        assert "The study is running" in json.loads(report("demo", "--to", "x.md", "--json").output)["state"]
    assert "The study is not finished" in json.loads(report("demo", "--to", "x.md", "--json").output)["state"]


def test_a_picture_that_cannot_be_drawn_is_said_and_costs_no_other(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make()
    monkeypatch.setattr("sweeper.plots.interaction_picture._fill", lambda *_: 1 / 0)
    result = report("demo")
    assert result.exit_code == 0, result.output
    page, text = Page(paths.report_page.read_text()), paths.report_text.read_text()
    assert "The picture interaction is left out: it cannot be drawn: ZeroDivisionError." in page.text
    assert "The picture `interaction` is left out: it cannot be drawn: ZeroDivisionError." in text
    names = {file.stem for file in paths.pictures.iterdir()}
    assert names
    assert "interaction" not in names
    assert len(page.all("img")) == len(names)
