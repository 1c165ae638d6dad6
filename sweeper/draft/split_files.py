"""Which file has which split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sweeper.config.teaching import CUT_SHARE
from sweeper.data.files import ENDINGS
from sweeper.errors import DataError

_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing", "heldout"),
}


@dataclass(frozen=True)
class SplitFiles:
    """Where the rows are.

    Attributes:
        path: of `data.path`: a file, or a folder with one for each split.
        files: by split, those that there are.
    """

    path: Path
    files: Mapping[str, Path]

    @property
    def splits(self) -> dict[str, str | float]:
        """As `data.splits` has them: the name of a file, or a share that is cut from the training rows."""
        if self.path.is_file():
            return {"train": "train", "validation": CUT_SHARE, "test": CUT_SHARE}
        return {split: self.files[split].name if split in self.files else CUT_SHARE for split in _NAMES}


def split_files(data: Path) -> SplitFiles:
    """Finds the splits by the names of files, such as `tickets_train.csv` and `val.jsonl`.

    Raises:
        DataError: if there is no file to read, or no telling which is trained on.
    """
    data = data.expanduser().resolve()
    endings = ", ".join(ENDINGS)
    if data.is_file():
        if data.suffix not in ENDINGS:
            raise DataError(f"rows are read from {endings}, but {data.name} is none; convert it to one of them")
        return SplitFiles(data, {"train": data})
    if not data.is_dir():
        raise DataError(
            f"there must be a file or a folder {data}, but there is none. A dataset of the Hub needs no draft: "
            "sweeper launch study=demo study.name=NAME data=hub data.path=ORGANISATION/NAME"
        )
    there = sorted(file for file in data.iterdir() if file.suffix in ENDINGS)
    found: dict[str, list[Path]] = {split: [] for split in _NAMES}
    for file in there:
        words = re.findall(r"[a-z]+", file.stem.lower())
        for split, names in _NAMES.items():
            if set(words) & set(names):
                found[split].append(file)
    listed = ", ".join(file.name for file in there) or "none"
    plain = _rows_first(there)
    if len(plain) == 1 and not found["train"]:
        return SplitFiles(plain[0], {"train": plain[0]})
    if not found["train"]:
        raise DataError(f"a folder needs a file for training, named such as train.csv, but {data} has: {listed}")
    found = {split: _rows_first(files) for split, files in found.items()}
    for split, files in found.items():
        if len(files) > 1:
            raise DataError(
                f"each split needs one file, but {data} has {len(files)} for {split}: "
                f"{', '.join(file.name for file in files)}. Put them together, or the others elsewhere"
            )
    return SplitFiles(data, {split: files[0] for split, files in found.items() if files})


def _rows_first(files: list[Path]) -> list[Path]:
    """The files without those in JSON, which often describe others; where there are no others, these."""
    return [file for file in files if file.suffix != ".json"] or files
