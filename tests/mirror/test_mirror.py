from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sweeper.config.schema import Config
from sweeper.errors import ConfigError, MirrorError, StoreError
from sweeper.mirror.mirror import Mirror
from sweeper.mirror.remote import Remote, check
from sweeper.paths import Home, StudyPaths
from tests.mirror.conftest import URL, copier, empty_store, files


def mirror(paths: StudyPaths, every_s: float = 300, url: str = URL) -> Mirror:
    return Mirror(paths, url, every_s)


def waited_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_it_copies_while_the_block_runs_and_once_more_when_that_raises(demo: StudyPaths, tmp_path: Path) -> None:
    lines: list[str] = []

    def run() -> None:
        with mirror(demo, every_s=0.05).running(lines.append):
            assert waited_for(lambda: any("/manifests/" in name for name in MemoryFileSystem.store))
            demo.predictions(0).write_text("the last word")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert lines == [f"the mirror has the study as it is: {URL}"]
    there = empty_store(tmp_path / "b")
    mirror(there).begin(True, lines.append)
    assert files(there) == files(demo)
    assert there.home.optuna_file.is_file()
    assert lines[1].startswith(f"demo is back from its mirror {URL} as it was at 2")
    mirror(there).begin(False, lines.append)  # and goes on with the mirror
    assert len(lines) == 2


def test_one_that_is_away_is_said_once_and_so_is_its_return(demo: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.mirror.mirror.AGAIN_S", 0.02)
    lines: list[str] = []
    is_away, tries = True, 0
    write = Remote.write

    def writes(self: Remote, name: str, content: bytes) -> None:
        nonlocal tries
        tries += 1
        if is_away:
            raise MirrorError("no route to host")
        write(self, name, content)

    monkeypatch.setattr(Remote, "write", writes)
    with mirror(demo, every_s=0.05).running(lines.append):
        assert waited_for(lambda: tries > 3)
        assert lines == ["warning: no route to host. It is tried again while the study goes on"]
        is_away = False
        assert waited_for(lambda: len(lines) == 2)
    assert lines[1] == "note: the study's mirror is reached again, and has all of it"
    assert lines[2].startswith("the mirror has the study as it is")


def test_at_the_end_it_says_what_the_mirror_lacks(demo: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.mirror.mirror._LAST_PAUSE_S", 0)
    lines: list[str] = []
    made = mirror(demo)
    with made.running(lines.append):
        pass
    demo.predictions(0).write_text("more")
    monkeypatch.setattr(Remote, "write", lambda *_: (_ for _ in ()).throw(MirrorError("no route to host")))
    with made.running(lines.append):
        pass
    assert lines[1].startswith("warning: no route to host. The mirror has the study as it was at 2")
    assert lines[1].endswith("; what came later is here alone")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///proc/mirror", "could not be written"),
        ("nonsense://x/y", "could not be opened: Protocol not known: nonsense"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(url: str, words: str) -> None:
    problem = check(url)
    assert problem is not None
    assert problem.startswith("store.mirror must be a place that can be read and written, but ")
    assert words in problem


def test_a_place_that_can_be_used_is_left_as_it_was(tmp_path: Path) -> None:
    assert check(tmp_path.as_uri()) is None
    assert list(tmp_path.iterdir()) == []


def test_the_store_cannot_be_its_own_mirror(home: Home, composed: Callable[..., Config]) -> None:
    config = composed("study=demo", f"store.mirror=file://{home.root}/mirror")
    with pytest.raises(ConfigError, match="must be outside of the store, which it is to outlive"):
        Mirror.of(home.study("demo"), config)
    assert Mirror.of(home.study("demo"), composed("study=demo")) is None


def test_a_mirror_of_another_study_is_refused_and_left_as_it_is(demo: StudyPaths, tmp_path: Path) -> None:
    copier(demo).copy()
    before = dict(MemoryFileSystem.store)
    other = demo.home.study("other")
    for is_new in (True, False):
        with pytest.raises(MirrorError, match=f"a mirror is one study's, but {URL} has the study 'demo'; "):
            mirror(other).begin(is_new, print)
    namesake = empty_store(tmp_path / "b")
    namesake.config.write_text("study: demo\n")
    namesake.tracking.write_text('{"study_id": "77", "places": []}')
    with pytest.raises(
        MirrorError, match=r"has another study of that name; store\.mirror=URL of an empty place begins"
    ):
        mirror(namesake).begin(False, print)
    assert before == MemoryFileSystem.store


def test_a_mirror_that_is_further_is_refused(demo: StudyPaths, tmp_path: Path) -> None:
    copier(demo).copy()
    there = empty_store(tmp_path / "b")
    mirror(there).begin(True, lambda _: None)
    mirror(demo).begin(False, print)  # nothing has gone on there yet
    there.predictions(0).write_text("there")
    copier(there).copy()
    before = files(demo)
    with pytest.raises(
        MirrorError, match=r"a mirror may not be further than the study, .* store\.home=DIR to an empty"
    ):
        mirror(demo).begin(False, print)
    assert files(demo) == before
    demo.config.unlink()  # a folder that is gone beside trials that are not
    with pytest.raises(MirrorError, match="has not come so far, or is not whole"):
        mirror(demo).begin(False, print)


def test_a_store_with_other_studies_takes_none_back(demo: StudyPaths, tmp_path: Path) -> None:
    copier(demo).copy()
    there = empty_store(tmp_path / "b")
    there.home.study("mine").create()
    there.home.study("mine").config.touch()
    with pytest.raises(
        StoreError, match=r"comes back from its mirror into a store of its own, but that at .* has mine;"
    ):
        mirror(there).begin(True, print)


def test_what_is_interrupted_while_it_comes_back_comes_back_whole(
    demo: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copier(demo).copy()
    there, read, left = empty_store(tmp_path / "b"), Remote.read, 0
    for moment in range(30):
        left = moment

        def reads(self: Remote, name: str) -> bytes | None:
            nonlocal left
            left -= 1
            if left < 0:
                raise MirrorError("cut")
            return read(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(Remote, "read", reads)
            try:
                mirror(there).begin(not there.home.optuna_file.exists(), lambda _: None)
            except MirrorError:
                continue
        break
    assert moment > 10
    assert files(there) == files(demo)
    assert (there.home.pace / "cpu.json").is_file()
    mirror(there).begin(False, print)


def test_files_of_machines_that_share_a_study_come_together(demo: StudyPaths, tmp_path: Path) -> None:
    for file in (demo.home.optuna_file, demo.home.mlflow_file):  # they are on a server
        file.unlink()
    copier(demo).copy()
    there = empty_store(tmp_path / "b")
    mirror(there).begin(False, lambda _: None)  # trials are known from the server, the folder is not here
    assert files(there) == files(demo)
    there.checkpoint(1).write_text("further")
    copier(there).copy()
    assert mirror(demo).fetch("trials/0001")
    assert demo.checkpoint(1).read_text() == "further"
    assert not mirror(demo).fetch("trials/0001")  # it is here
    assert not mirror(demo).fetch("trials/0009")
    copier(demo).copy()  # beside the other, not in its place
    third = empty_store(tmp_path / "c")
    mirror(third).begin(True, lambda _: None)
    assert third.checkpoint(1).read_text() == "further"
    assert len({name.split("/")[4] for name in MemoryFileSystem.store if "/writers/" in name}) == 2
