"""Which files of a folder are rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.draft.split_files import split_files


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.jsonl", "train.json", "dataset_info.json"], {"train": "train.jsonl"}),
        (["rows.csv", "dataset_info.json"], {"train": "rows.csv"}),
        (["train-v1.1.json", "dev-v1.1.json"], {"train": "train-v1.1.json", "validation": "dev-v1.1.json"}),
    ],
)
def test_json_beside_other_rows_is_none_of_them(names: list[str], expected: dict[str, str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    assert {split: file.name for split, file in split_files(tmp_path).files.items()} == expected
