from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.errors import StoreError
from sweeper.housekeeping.clean import HALF_WRITTEN
from sweeper.paths import TEST, Home, write_atomically


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


def test_a_half_written_file_is_known_for_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, memory = Home(tmp_path).study("demo"), Home(tmp_path).memory
    study = [paths.config, paths.changes, paths.model, paths.splits, paths.data, paths.tracking, paths.holder]
    study += [paths.worker_holder(1), paths.outcome(12), paths.learning_curve, paths.learning_curve_picture]
    base = [paths.predictions(None), paths.predictions(None, TEST), paths.retention, paths.wrong_rows(None, TEST)]
    trial = [paths.trial_config(3), paths.readings(3), paths.predictions(3), paths.wrong_rows(3)]
    side = [paths.side_result("confirmation", 701), paths.side_predictions("confirmation", 701)]
    known = [memory / name for name in ("runtime.json", "formula-0a1b.json", "calibration-0a1b.json")]
    left: list[str] = []
    monkeypatch.setattr(os, "replace", lambda temporary, _: left.append(Path(temporary).name))
    for file in [*study, *base, *trial, *side, *known]:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, "")
    assert len(left) == 24
    assert [name for name in left if not HALF_WRITTEN.fullmatch(name)] == []
    assert not any(map(HALF_WRITTEN.fullmatch, (".notes.md.ab12_x9z", "config.yaml", ".trials.ab12_x9z")))
