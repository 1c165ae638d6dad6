"""A folder appears whole or not at all: whatever stops its writer, the old one is there, or none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.errors import ExportError
from sweeper.exporting import staging
from sweeper.exporting.manifest import MANIFEST


def write(folder: Path, text: str) -> None:
    with staging.staged(folder, force=True) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "weights").write_text(text)
        (temporary / MANIFEST).write_text(text)


def content(folder: Path) -> str | None:
    """What is there, which must be whole; None where nothing is."""
    if not folder.exists():
        return None
    texts = {(folder / name).read_text() for name in ("sub/weights", MANIFEST)}
    assert len(texts) == 1
    return texts.pop()


@pytest.mark.parametrize("has_old", [True, False])
@pytest.mark.parametrize("can_exchange", [True, False])
def test_it_takes_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_old: bool, can_exchange: bool
) -> None:
    folder = tmp_path / "out"
    if has_old:
        write(folder, "old")
    if not can_exchange:
        monkeypatch.setattr(staging, "_exchanged", lambda *_: False)
    write(folder, "new")
    assert content(folder) == "new"
    assert os.listdir(tmp_path) == ["out"]


def killed(do: Callable[[], None]) -> None:
    """Does something in a process of its own, which is killed on its way."""
    child = os.fork()
    if child == 0:
        try:
            do()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("has_old", [True, False])
@pytest.mark.parametrize("moment", ["as it is written", "before it is put there", "once it is there"])
def test_a_kill_leaves_the_old_one_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_old: bool, moment: str
) -> None:
    folder = tmp_path / "out"
    if has_old:
        write(folder, "old")

    def do() -> None:
        put = staging._put
        if moment == "before it is put there":
            monkeypatch.setattr(staging, "_put", kill)
        elif moment == "once it is there":
            monkeypatch.setattr(staging, "_put", lambda *folders: (put(*folders), kill()))
        with staging.staged(folder, force=True) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "weights").write_text("new")
            if moment == "as it is written":
                kill()
            (temporary / MANIFEST).write_text("new")

    killed(do)
    expected = "new" if moment == "once it is there" else "old" if has_old else None
    assert content(folder) == expected
    write(folder, "next")  # which also takes away what was left
    assert content(folder) == "next"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ExportError])
def test_an_error_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    folder = tmp_path / "out"
    write(folder, "old")

    def stop() -> None:
        with staging.staged(folder, force=True) as temporary:
            (temporary / "weights").write_text("new")
            raise error("stopped")

    with pytest.raises(error):
        stop()
    assert content(folder) == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_for_its_owner_alone_can_be_read_by_all(tmp_path: Path) -> None:
    with staging.staged(tmp_path / "out", force=False) as temporary:
        (temporary / "weights").touch(0o600)
    assert (tmp_path / "out" / "weights").stat().st_mode & 0o777 == 0o644


def test_another_folder_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    staging.check(folder, force=False)
    folder.mkdir()
    with pytest.raises(ExportError, match="--force replaces it"):
        staging.check(folder, force=False)
    staging.check(folder, force=True)  # empty
    (folder / "thesis.tex").touch()
    with pytest.raises(ExportError, match="choose another folder"):
        staging.check(folder, force=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportError, match="choose another folder"):
        staging.check(tmp_path / "link", force=True)
    with (
        pytest.raises(ExportError, match="must be one that can be written"),
        staging.staged(Path("/proc/x/out"), force=False),
    ):
        pass


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"

    def late() -> None:
        with staging.staged(folder, force=False) as temporary:
            (temporary / MANIFEST).write_text("new")
            folder.mkdir()
            (folder / "thesis.tex").touch()

    with pytest.raises(ExportError, match="choose another one"):  # which --force would not replace
        late()
    assert os.listdir(folder) == ["thesis.tex"]


def test_where_folders_cannot_change_places_a_kill_in_between_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    write(folder, "old")
    monkeypatch.setattr(staging, "_exchanged", lambda *_: False)
    replace = os.replace

    def once(one: Path, other: Path) -> None:
        replace(one, other)
        kill()

    def do() -> None:
        monkeypatch.setattr(os, "replace", once)
        write(folder, "new")

    killed(do)
    assert content(folder) is None

    def fail() -> None:
        with staging.staged(folder, force=True):
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert content(folder) == "old"  # the next export has put it back
    assert os.listdir(tmp_path) == ["out"]
