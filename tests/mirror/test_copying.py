from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sweeper.errors import MirrorError
from sweeper.mirror import copying, snapshot
from sweeper.mirror.copying import Copied, Copier
from sweeper.mirror.remote import Remote
from sweeper.mirror.restoring import restore
from sweeper.paths import StudyPaths
from tests.mirror.conftest import URL, copier, empty_store, files


def restored(folder: Path, lines: list[str] | None = None) -> StudyPaths:
    paths = empty_store(folder)
    restore(paths, URL, lines.append if lines is not None else lambda _: None)
    return paths


def test_nothing_new_is_not_uploaded_again_by_the_same_launch_or_the_next(demo: StudyPaths) -> None:
    first = copier(demo)
    done = first.copy()
    assert done.files == 9
    assert 0 < done.uploads <= done.files
    nothing = Copied(done.files, 0, 0)
    assert first.copy() == nothing
    assert copier(demo).copy() == nothing
    before = set(MemoryFileSystem.store)
    demo.predictions(0).write_text("changed")
    assert copier(demo).copy() == Copied(done.files, 1, len("changed"))
    # The new part and the new manifest are there in place of the old ones.
    assert len(MemoryFileSystem.store) == len(before)
    assert len(set(MemoryFileSystem.store) - before) == 2


def test_a_file_that_grows_is_uploaded_from_where_it_grew(demo: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PART_BYTES", 100)
    demo.events.write_text("x" * 100 + "y" * 50)
    copies = copier(demo)
    copies.copy()
    with demo.events.open("a") as file:
        file.write("z" * 70)
    assert copies.copy().uploaded_bytes == 100 + 20
    assert restored(demo.home.root.parent / "b").events.read_text() == "x" * 100 + "y" * 50 + "z" * 70


def test_what_was_deleted_here_is_deleted_there_and_nothing_else(demo: StudyPaths) -> None:
    foreign = ["mirror/demo/notes.txt", "mirror/demo/writers/readme.txt", "mirror/elsewhere.txt"]
    for name in foreign:
        MemoryFileSystem().pipe_file(f"/{name}", b"mine")
    copies = copier(demo)
    copies.copy()
    demo.checkpoint(1).unlink()
    copies.copy()
    assert "trials/0001/checkpoint.safetensors" not in files(restored(demo.home.root.parent / "b"))
    assert b"demo checkpoint.safetensors" not in {file.getvalue() for file in MemoryFileSystem.store.values()}
    assert all(MemoryFileSystem().cat_file(f"/{name}") == b"mine" for name in foreign)


class Killed(BaseException):
    """As if the process were no more."""


@pytest.mark.parametrize("is_half_written", [False, True])
def test_killed_at_any_write_it_leaves_the_old_generation_or_the_new_one(
    demo: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_half_written: bool
) -> None:
    write, delete = Remote.write, Remote.delete
    old = files(demo)
    copier(demo).copy()
    for file in (demo.predictions(0), demo.checkpoint(1)):
        file.write_text(f"new {file.name}")
    demo.events.unlink()
    new = files(demo)
    seen = []
    for moment in range(100):
        left = iter(range(moment))

        def alive(left: object = left) -> bool:
            return next(left, None) is not None  # type: ignore[call-overload]

        def writes(self: Remote, name: str, content: bytes, alive: Callable[[], bool] = alive) -> None:
            if alive():
                return write(self, name, content)
            if is_half_written:
                write(self, name, content[: len(content) // 2])
            raise Killed

        def deletes(self: Remote, names: list[str], alive: Callable[[], bool] = alive) -> None:
            for name in names:
                if not alive():
                    raise Killed
                delete(self, [name])

        with monkeypatch.context() as patch:
            patch.setattr(Remote, "write", writes)
            patch.setattr(Remote, "delete", deletes)
            try:
                copier(demo).copy()
            except Killed:
                is_killed = True
            else:
                is_killed = False
        found = files(restored(tmp_path / f"{moment}"))
        assert found in (old, new)
        seen.append(found == new)
        if not is_killed:
            break
    assert seen == sorted(seen)
    assert seen[0] is False
    assert seen[-1] is True
    copier(demo).copy()
    parts = [name for name in MemoryFileSystem.store if "/parts/" in name]
    assert len(parts) == len(set(copying.newest(Remote(URL), copier_id(demo)).parts))  # type: ignore[union-attr]


def copier_id(paths: StudyPaths) -> str:
    return copying.Standing.of(paths).writer


def test_a_first_copy_goes_on_where_it_was_cut_and_leaves_nothing_behind(
    demo: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = Remote.write, 4

    def writes(self: Remote, name: str, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise MirrorError("cut")
        write(self, name, content)

    monkeypatch.setattr(Remote, "write", writes)
    copies = copier(demo)
    with pytest.raises(MirrorError, match="cut"):
        copies.copy()
    assert not empty_store(demo.home.root.parent / "b").config.exists()
    assert copies.copy().uploads == 9 - 3
    left = 4
    demo.mirror.unlink()  # another writer, that is killed and begins again
    with pytest.raises(MirrorError, match="cut"):
        copier(demo).copy()
    copier(demo).copy()
    made = [one for one in MemoryFileSystem.store if f"/{copier_id(demo)}/parts/" in one]
    assert len(made) == 9
    assert len({one.split("/")[4] for one in MemoryFileSystem.store if "/parts/" in one}) == 2


def test_a_part_that_is_lost_there_is_uploaded_again(demo: StudyPaths, tmp_path: Path) -> None:
    copier(demo).copy()
    [part] = [name for name, file in MemoryFileSystem.store.items() if file.getvalue() == b"demo predictions.jsonl"]
    MemoryFileSystem().rm_file(part)
    with pytest.raises(MirrorError, match=r"a mirror must have every part of its files, but \w{12}… is not there"):
        restored(tmp_path / "b")
    assert not empty_store(tmp_path / "b").config.exists()  # so that it is not taken for a study
    assert copier(demo).copy().uploads == 1
    assert restored(tmp_path / "b").predictions(0).read_text() == "demo predictions.jsonl"


def test_whoever_went_on_elsewhere_has_the_mirror(demo: StudyPaths, tmp_path: Path) -> None:
    here = copier(demo)
    here.copy()
    there = restored(tmp_path / "b")
    there.predictions(0).write_text("there")
    copier(there).copy()
    demo.predictions(0).write_text("here")
    with pytest.raises(
        MirrorError, match="one folder at a time goes on with a study's mirror, but another one has, at 2"
    ):
        here.copy()
    assert restored(tmp_path / "c").predictions(0).read_text() == "there"


def between(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Has something happen to a study after the first look at its files, and before its databases are copied."""
    take = snapshot.Snapshot._take_databases

    def then(self: snapshot.Snapshot) -> None:
        happens()
        take(self)

    monkeypatch.setattr(snapshot.Snapshot, "_take_databases", then)


def test_whatever_the_trials_know_of_is_there_and_no_checkpoint_is_newer(
    demo: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def happens() -> None:
        demo.predictions(1).write_text("of a trial that is told now")
        (demo.adapter(0) / "adapter.safetensors").unlink()  # for trial 1 is better
        os.rmdir(demo.adapter(0))
        demo.checkpoint(1).unlink()
        demo.checkpoint(2).parent.mkdir()
        demo.checkpoint(2).write_text("of a trial that is asked later")

    between(monkeypatch, happens)
    copier(demo).copy()
    found = files(restored(tmp_path / "b"))
    assert found["trials/0001/predictions.jsonl"] == "of a trial that is told now"
    assert found["trials/0000/adapter/adapter.safetensors"] == "demo adapter/adapter.safetensors"
    assert found["trials/0001/checkpoint.safetensors"] == "demo checkpoint.safetensors"
    assert "trials/0002/checkpoint.safetensors" not in found


def test_a_checkpoint_that_is_replaced_while_it_is_uploaded_is_whole(
    demo: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def happens() -> None:
        new = demo.checkpoint(1).with_name("new")
        new.write_text("the next one, which is longer than this")
        os.replace(new, demo.checkpoint(1))

    between(monkeypatch, happens)
    copier(demo).copy()
    assert restored(tmp_path / "b").checkpoint(1).read_text() == "demo checkpoint.safetensors"
    assert not demo.mirroring.exists()


def test_a_disk_without_hard_links_does(demo: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    copier(demo).copy()
    assert files(restored(tmp_path / "b")) == files(demo)


def test_what_belongs_to_this_machine_is_not_copied(demo: StudyPaths, tmp_path: Path) -> None:
    (demo.root / ".config.yaml.ab12_x9z").write_text("half written")
    Copier(demo, Remote(URL)).copy()
    there = restored(tmp_path / "b")
    assert not any(file.exists() for file in (there.holder, there.launcher_lock, there.root / ".config.yaml.ab12_x9z"))
    assert (there.home.pace / "cpu.json").is_file()
