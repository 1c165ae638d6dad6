from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.errors import StoreError
from sweeper.paths import Home, write_atomically


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-x", "x" * 65, "a b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="a study name has 1 to 64"):
        Home(tmp_path).study(name)


def test_a_store_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(StoreError, match=r"/proc/store is not: .* Set SWEEPER_HOME"):
        Home(Path("/proc/store")).create()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "f"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "\ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
