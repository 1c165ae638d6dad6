"""Reads the rows of a task and refuses what would waste a search: with file and line.

Nothing is dropped or repaired silently: a malformed row, an unknown column, an empty field or a
label that the training split lacks stops the launch.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.schema import Config
from sweeper.config.teaching import DataSection
from sweeper.custom.own import Own, OwnTask
from sweeper.data import files, kinds, splits
from sweeper.data.row import Row
from sweeper.data.template import ROW, columns_read
from sweeper.errors import DataError, number_of, unknown
from sweeper.quoting import name_of

SPLITS = ("train", "validation", "test")
_SHOWN = 5  # problems of one kind that a message lists


@dataclass(frozen=True)
class TaskData:
    """The three splits of a task.

    Attributes:
        reads: the columns that the prompt reads beside those of the task; `row` stands for all.
    """

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    reads: Collection[str] = ()

    @property
    def labels(self) -> list[str]:
        """The labels of the training split, sorted; none where rows have answers."""
        return sorted(self.label_counts)

    @property
    def label_counts(self) -> dict[str, int]:
        """The training rows of each label, the commonest first; none where rows have answers."""
        return dict(Counter(row.label for row in self.train if not row.answers).most_common())

    @property
    def most_common(self) -> str:
        """The label, or the answer, that most rows of the training split have."""
        counts = Counter(row.answers[0] if row.answers else row.label for row in self.train)
        return str(max(sorted(counts), key=counts.__getitem__))

    @property
    def longest_answer(self) -> str:
        """The label or answer with the most bytes, of all rows."""
        answers: list[str] = [answer for split in SPLITS for row in getattr(self, split) for answer in row.answers]
        return max([*self.labels, *answers], key=lambda answer: len(answer.encode()))

    @property
    def sha256(self) -> str:
        """A hash over all that training and scoring read of the rows, in order."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for row in getattr(self, split):
                read: list[Any] = [split, row.text, row.label]
                if row.answers:
                    read += [row.answers, row.messages]
                columns = (
                    row.columns if ROW in self.reads else {k: row.columns[k] for k in self.reads if k in row.columns}
                )
                if columns:
                    read.append(sorted(columns.items()))
                digest.update(json.dumps(read, default=str).encode())
        return digest.hexdigest()


def of(config: Config, kept: Path | None = None, own: Own | None = None) -> TaskData:
    """Loads and checks what a study reads; raises as `load` does.

    Args:
        kept: the file with the splits that the study began with.
        own: the code that the study brings, where it brings any.
    """
    reads = columns_read(config.prompt.template)
    if own is not None and own.sha256 is not None:
        reads |= {ROW}  # which columns the code reads is not known
    return load(config.data, config.task.name, reads, kept, own.task if own is not None else None)


def keep_splits(data: TaskData, section: DataSection, file: Path) -> None:
    """Keeps which row is in which split, where the study cut them."""
    file.unlink(missing_ok=True)
    if splits.shares_of(section.splits):
        splits.keep({split: getattr(data, split) for split in ("train", *splits.shares_of(section.splits))}, file)


def load(
    section: DataSection,
    task: str = "classification",
    reads: Collection[str] = (),
    kept: Path | None = None,
    own: OwnTask | None = None,
) -> TaskData:
    """Loads and checks the three splits.

    Args:
        reads: the columns that the prompt reads beside those of the task.
        kept: the file with the splits that the study began with.
        own: the user's task, which says what rows ask and answer.

    Raises:
        DataError: naming the file and line of what is wrong.
        CustomCodeError: if the user's task raises.
    """
    shares = splits.shares_of(section.splits)
    found, errors = {}, []
    for split in SPLITS:
        if split not in shares:
            try:
                found[split] = _rows(files.read(section, split, getattr(section.splits, split)), section, split, own)
            except DataError as error:  # all splits are read, so that all is said at once
                errors.append(error)
    if errors:
        raise DataError.joined(errors)
    if shares and kept is not None and kept.is_file():
        found |= splits.recall(found["train"], kept)
    elif shares:
        found |= splits.cut(found["train"], shares, section.group, section.seed)
    if section.group is not None:
        splits.check_groups(found, section.group)
    data = TaskData(**found, reads=sorted(reads))
    if task == "classification":
        _check_labels(data)
    return data


def _rows(raw: list[files.Raw], section: DataSection, split: str, own: OwnTask | None) -> list[Row]:
    if not raw:
        raise DataError(f"each split must have rows, but `{split}` is empty")
    rows, problems = [], []
    for place, columns in raw:
        kinds.check_columns(section.columns, columns, place)
        if section.group is not None and section.group not in columns:
            raise DataError(f"{place}: data.group: {unknown('column', section.group, map(name_of, columns))}")
        try:
            row = kinds.own_row(own, columns, place) if own else kinds.row_of(section.columns, columns, place)
            rows.append(row)
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise DataError(
            f"{number_of(len(problems), f'row of `{split}` is', f'rows of `{split}` are')} not usable:\n"
            + _listed(problems),
            code="unusable-rows",
        )
    return rows


def _check_labels(data: TaskData) -> None:
    labels = set(data.labels)
    if len(labels) < 2:
        raise DataError(
            f"classification needs at least two labels, but the training split has only {_names(data.labels)}",
            code="one-class",
        )
    errors = []
    for split in ("validation", "test"):
        strange = [row for row in getattr(data, split) if row.label not in labels]
        if strange:
            errors.append(
                DataError(
                    f"each label of `{split}` must occur in the training split, but "
                    f"{number_of(len(strange), 'row has', 'rows have')} another:\n"
                    + _listed([f"{row.place}: `{name_of(row.label)}`" for row in strange])
                    + f"\nLabels of the training split: {_names(data.labels)}",
                    code="unknown-labels",
                )
            )
    if errors:
        raise DataError.joined(errors)


def _names(labels: list[str]) -> str:
    return ", ".join(map(name_of, labels)) or "none"


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
