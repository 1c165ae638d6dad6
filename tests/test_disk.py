"""What says that a disk is full, however it says it."""

from __future__ import annotations

import errno
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from click.testing import CliRunner
from safetensors import SafetensorError

from sweeper.cli.main import main
from sweeper.disk import full, is_full, no_room
from sweeper.errors import CheckpointError, StoreError
from sweeper.paths import Home

NO_SPACE = OSError(errno.ENOSPC, "No space left on device", "/store/studies/demo/cost.json")
WRITES = """
import pathlib, resource, signal, sys
import torch
from safetensors.torch import save_file
from sweeper.disk import Lines, is_full
from sweeper.paths import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
folder = pathlib.Path(sys.argv[1])
lines = Lines(folder / "lines")
for write in (
    lambda: write_atomically(folder / "old", "x" * 10_000),
    lambda: save_file({"a": torch.zeros(10_000)}, folder / "tensors"),
    lambda: [lines.add("y" * 999 + "\\n") for _ in range(10)],
):
    try:
        write()
    except Exception as error:
        print(type(error).__name__, is_full(error))
"""


def test_whoever_says_it() -> None:
    assert is_full(NO_SPACE)
    assert is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert is_full(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(errno.ENOENT, "No such file"))
    assert not is_full(StoreError("the study has no trial 3"))
    small = sqlalchemy.create_engine("sqlite://")
    with small.connect() as connection:
        connection.execute(sqlalchemy.text("PRAGMA max_page_count = 1"))
        with pytest.raises(sqlalchemy.exc.OperationalError) as raised:
            connection.execute(sqlalchemy.text("CREATE TABLE t (a TEXT)"))
    small.dispose()
    assert is_full(raised.value)
    assert isinstance(raised.value.orig, sqlite3.OperationalError)
    mapped = CheckpointError("the checkpoint must be writable")
    mapped.__cause__ = NO_SPACE
    assert is_full(mapped)


def test_it_is_said_with_the_file_the_room_and_what_to_do(tmp_path: Path) -> None:
    words = str(full(NO_SPACE, tmp_path / "studies" / "demo"))
    assert words.startswith(
        "the disk must have room for what a study writes, but /store/studies/demo/cost.json cannot be written: No space"
    )
    assert f"free in {tmp_path})" in words  # the next folder that is there
    assert "`sweeper clean`" in words
    assert full(no_room(tmp_path), tmp_path / "other").args == no_room(tmp_path).args


def test_a_process_that_may_write_no_more_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("as it was")
    done = subprocess.run([sys.executable, "-c", WRITES, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["OSError True", "SafetensorError True", "OSError True"], done.stderr
    assert (tmp_path / "old").read_text() == "as it was"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    whole = (tmp_path / "lines").read_bytes().split(b"\n")
    assert [len(line) for line in whole] == [999] * 4 + [96]  # the last one is cut off, and is no line


def test_a_command_says_it_in_a_line(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise NO_SPACE

    monkeypatch.setattr("sweeper.housekeeping.stop.stop", fails)
    said = CliRunner().invoke(main, ["stop", "demo"])
    assert said.exit_code == 2
    assert said.stderr.startswith("error: the disk must have room for what a study writes, but /store/studies/demo/c")


@pytest.mark.parametrize("command", ["sync", "doctor"])
def test_what_is_no_study_is_none_for_any_command(home: Home, command: str) -> None:
    said = CliRunner().invoke(main, [command, "nothing"])
    assert (said.exit_code, said.stderr.startswith("error: there is no study 'nothing' in ")) == (2, True)
