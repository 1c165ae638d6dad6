"""Reads the rows of a task and refuses what would waste a search: with file and line.

Nothing is dropped or repaired silently: a malformed row, an unknown column, an empty field or a
label that the training split lacks stops the launch.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sweeper.config.schema import DataSection
from sweeper.data import tickets
from sweeper.errors import DataError, unknown

SPLITS = ("train", "validation", "test")
ENDINGS = (".jsonl", ".csv", ".parquet")
_tickets = cache(tickets.splits)
_SHOWN = 5  # problems of one kind that a message lists


@dataclass(frozen=True)
class Row:
    """One labelled text, and where it came from (`train.jsonl:17`)."""

    text: str
    label: str
    place: str
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)  # all of the row, under their own names


@dataclass(frozen=True)
class TaskData:
    """The three splits of a classification task."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]

    @property
    def labels(self) -> list[str]:
        """The labels of the training split, sorted."""
        return sorted({row.label for row in self.train})

    @property
    def sha256(self) -> str:
        """A hash over every text and label, in order."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for row in getattr(self, split):
                digest.update(json.dumps([split, row.text, row.label]).encode())
        return digest.hexdigest()


def load(section: DataSection) -> TaskData:
    """Loads and checks the three splits.

    Raises:
        DataError: naming the file and line of what is wrong.
    """
    splits = {}
    for split in SPLITS:
        name = getattr(section.splits, split)
        raw = _read(section, split, name)
        splits[split] = _rows(raw, section.columns.text, section.columns.label, split)
    data = TaskData(**splits)
    _check_labels(data)
    return data


def _read(section: DataSection, split: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The raw rows of one split, each with its place."""
    if section.source == "tickets":
        return [(f"tickets {split}:{n}", dict(row)) for n, row in enumerate(_tickets()[split], start=1)]
    assert section.path is not None  # checked with the configuration
    if section.source == "hub":
        return _read_hub(section.path, name)
    file = _find(Path(section.path).expanduser(), name)
    reader = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}[file.suffix]
    return list(reader(file))


def _find(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"data.path must be a folder with the files of the splits, but {folder} is not a folder")
    tried = [folder / name] if Path(name).suffix in ENDINGS else [folder / f"{name}{ending}" for ending in ENDINGS]
    found = [file for file in tried if file.is_file()]
    if len(found) != 1:
        state = "is missing" if not found else "is there more than once"
        there = ", ".join(sorted(file.name for file in folder.iterdir() if file.suffix in ENDINGS)) or "none"
        raise DataError(
            f"each split needs one file, but `{name}` {state} in {folder}: looked for "
            f"{', '.join(file.name for file in tried)}. Data files there: {there}. Set data.splits to their names"
        )
    return found[0]


def _read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{file.name}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{file}, line {number}: must be UTF-8, but {error.reason}") from None
            except json.JSONDecodeError as error:
                raise DataError(f"{file}, line {number}: must be one JSON object, but {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: must be a JSON object, but is a {type(row).__name__}")
            yield place, row


def _read_csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, line {line}: must be UTF-8, but {error.reason}") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    begin = 1  # of the row that is read next; a quoted field may go over several lines
    try:
        begin += len(reader.fieldnames or []) > 0
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{file}, line {begin}: must have {len(reader.fieldnames or [])} fields as the header does, "
                    "but has more or fewer; is a comma unquoted?"
                )
            yield f"{file.name}:{begin}", dict(row)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, in the row that begins at line {begin}: must be CSV, but {error}") from None


def _read_parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import Dataset

    try:
        dataset = Dataset.from_parquet(str(file), keep_in_memory=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: must be a Parquet file, but {error}") from error
    yield from _named(dataset, file.name)


def _read_hub(path: str, split: str) -> list[tuple[str, dict[str, Any]]]:
    import datasets

    try:
        dataset = datasets.load_dataset(path, split=split)
    except Exception as error:  # the library raises many kinds, for a name, a network, a script
        raise DataError(
            f"data.path must name a dataset of the Hub with the split `{split}`, but {path} could not be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    return list(_named(dataset, f"{path}[{split}]"))


def _named(dataset: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a `datasets.Dataset`, class numbers turned into their names."""
    from datasets import ClassLabel

    classes = {key: feature for key, feature in dataset.features.items() if isinstance(feature, ClassLabel)}
    for number, row in enumerate(dataset, start=1):
        for key, feature in classes.items():
            if row[key] is not None and row[key] >= 0:
                row[key] = feature.int2str(row[key])
        yield f"{name}:{number}", row


def _rows(raw: list[tuple[str, dict[str, Any]]], text: str, label: str, split: str) -> list[Row]:
    if not raw:
        raise DataError(f"each split must have rows, but `{split}` is empty")
    rows, problems = [], []
    for place, row in raw:
        for column, key in ((text, "text"), (label, "label")):
            if column not in row:
                raise DataError(f"{place}: data.columns.{key}: {unknown('column', column, row)}")
        value = row[label]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(row[text], str) or not row[text].strip():
            problems.append(f"{place}: `{text}` must be text, but got {row[text]!r:.60}")
        elif not isinstance(value, str) or not value.strip():
            problems.append(f"{place}: `{label}` must be text or a whole number, but got {row[label]!r:.60}")
        else:
            rows.append(Row(text=row[text], label=value, place=place, columns=row))
    if problems:
        raise DataError(f"{len(problems)} rows of `{split}` are not usable:\n" + _listed(problems))
    return rows


def _check_labels(data: TaskData) -> None:
    labels = set(data.labels)
    if len(labels) < 2:
        raise DataError(f"classification needs at least two labels, but the training split has only {data.labels}")
    for split in ("validation", "test"):
        strange = [row for row in getattr(data, split) if row.label not in labels]
        if strange:
            raise DataError(
                f"each label of `{split}` must occur in the training split, but {len(strange)} rows have another:\n"
                + _listed([f"{row.place}: {row.label!r}" for row in strange])
                + f"\nLabels of the training split: {', '.join(data.labels)}"
            )


def _listed(lines: list[str]) -> str:
    more = [f"  … and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([f"  - {line}" for line in lines[:_SHOWN]] + more)


def stratified(rows: list[Row], count: int | None, seed: int) -> list[Row]:
    """`count` rows drawn so that each label keeps its share; all of them where `count` is None or too large.

    The rows keep their order, so that the same draw gives the same list.
    """
    if count is None or count >= len(rows):
        return list(rows)
    draw = random.Random(seed)
    by_label: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        by_label.setdefault(row.label, []).append(position)
    for positions in by_label.values():
        draw.shuffle(positions)
    # Interleaved by rank within the label: any prefix of this order is as balanced as it can be.
    order = sorted(
        (rank / len(positions), label, position)
        for label, positions in by_label.items()
        for rank, position in enumerate(positions)
    )
    return [rows[position] for position in sorted(position for _, _, position in order[:count])]
