"""What waits on the disk: whole after a kill and on a full disk, in order, and taken over from who is gone."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
from pathlib import Path

import pytest

from sweeper.errors import HeldError
from sweeper.tracking import spool as module
from sweeper.tracking.operation import Kind, Operation, Point, as_dataset, as_fields, merged
from sweeper.tracking.spool import Spool, waiting
from sweeper.tracking.tracker import STUDY, DatasetUse, RunKey
from sweeper.trial import RunKind

TRIAL = RunKey(RunKind.TRIAL, 3)


def note(text: str) -> Operation:
    return Operation(Kind.DESCRIBE, STUDY, {"text": text})


def all_of(spool: Spool) -> list[str]:
    """What waits, in order; nothing does afterwards."""
    found = []
    while operations := spool.first():
        found += [operation.fields["text"] for operation in operations]
        spool.drop_first()
    return found


def test_an_operation_is_the_same_after_the_disk() -> None:
    used = DatasetUse("tickets", "training", "ab" * 32, 96, "tickets", "tickets", ("text", "label"))
    for operation in (
        Operation.of_points(TRIAL, [Point("loss", 0.1 + 0.2, 1, 2)]),
        Operation(Kind.DATASETS, STUDY, {"datasets": [as_fields(used)]}),
        Operation(Kind.ARRANGE, None, {"view": "{}"}),
    ):
        read = Operation.from_line(operation.as_line())
        assert (read.kind, read.key) == (operation.kind, operation.key)
        if operation.kind is Kind.POINTS:
            assert read.points == operation.points
        if operation.kind is Kind.DATASETS:
            assert as_dataset(read.fields["datasets"][0]) == used
    assert math.isnan(
        Operation.from_line(Operation.of_points(TRIAL, [Point("x", math.nan, 1, 2)]).as_line()).points[0][1]
    )


def test_points_that_something_stands_between_stay_apart() -> None:
    one, two = (Operation.of_points(TRIAL, [Point("loss", 0.5, 0, step)]) for step in (1, 2))
    assert [count for _, count in merged([one, two, note("x"), one])] == [2, 1, 1]
    assert [point.step for point in merged([one, two])[0][0].points] == [1, 2]
    assert [point.step for point in one.points] == [1]  # what is merged is another


def _leave(folder: Path, texts: list[str]) -> None:
    """A process that is killed in the middle of its work."""
    spool = Spool(folder, "worker-0")
    for text in texts:
        spool.add(note(text))
    os._exit(9)


def test_what_a_killed_process_had_given_is_there_for_the_next(tmp_path: Path) -> None:
    for texts in (["a", "b"], ["c"]):
        process = multiprocessing.get_context("fork").Process(target=_leave, args=(tmp_path, texts))
        process.start()
        process.join()
        assert process.exitcode == 9
    with (tmp_path / "worker-0" / sorted(os.listdir(tmp_path / "worker-0"))[-1]).open("ab") as torn:
        torn.write(b'[1]\n{"do": "descr')
    spool = Spool(tmp_path, "worker-0")
    assert spool.found == 3
    spool.add(note("d"))
    assert all_of(spool) == ["a", "b", "c", "d"]
    assert list(tmp_path.rglob("*.jsonl")) == []
    spool.close()


def test_the_spool_of_one_that_is_gone_is_taken_over_and_that_of_one_that_lives_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, gone, alive = (Spool(tmp_path, name) for name in ("worker-0", "worker-1", "worker-2"))
    (tmp_path / "picture.png").write_text("p")
    first.add(note("1"))
    gone.add(note("2"))
    copy = gone.copy(tmp_path / "picture.png")
    gone.close()
    first.close()
    alive.add(note("3"))
    monkeypatch.setattr(module, "LOCK_S", 0.1)
    with pytest.raises(HeldError, match="another one has it"):
        Spool(tmp_path, "worker-2")
    taker = Spool(tmp_path, "worker-0")
    taker.add(note("4"))
    assert taker.copied(copy).read_text() == "p"
    assert all_of(taker) == ["1", "2", "4"]  # as it came, whoever had it
    assert waiting(tmp_path) == 1
    assert not (tmp_path / "worker-1").exists()
    alive.close()
    taker.close()


def test_the_order_is_kept_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1)
    spool = Spool(tmp_path, "worker-0")
    for text, jump_ns in (("a", 0), ("b", -(10**18)), ("c", 10**17)):
        now = module.time.time_ns() + jump_ns
        with monkeypatch.context() as patched:
            patched.setattr(module.time, "time_ns", lambda now=now: now)
            spool.add(note(text))
    spool.close()
    spool = Spool(tmp_path, "worker-0")
    assert all_of(spool) == ["a", "b", "c"]
    spool.close()


def test_what_a_full_disk_cuts_off_is_no_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, write = Spool(tmp_path, "worker-0"), os.write
    spool.add(note("a"))
    with monkeypatch.context() as full:

        def partly(descriptor: int, data: bytes) -> int:
            if len(data) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data[:20])

        full.setattr(os, "write", partly)
        with pytest.raises(OSError, match="No space left"):
            spool.add(note("b"))
    spool.add(note("c"))
    assert waiting(tmp_path) == 2  # without the half one, which nobody sends
    assert all_of(spool) == ["a", "c"]
    spool.close()
