"""What is done to a study's runs, in words that a file can keep until the store takes them.

An operation may be done twice, for nobody knows whether the store had it when its answer was lost: a run that is there
is opened again, a point that is there stays, an artifact is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from sweeper.tracking.tracker import DatasetUse, RunKey
from sweeper.trial import RunKind


class Kind(StrEnum):
    """What is done."""

    START = "start"  # name, params, tags
    POINTS = "points"
    MISSING = "missing"  # points of an evaluation, where the run has none of `metric` at their step
    DATASETS = "datasets"
    FILE = "file"  # path, folder, is_copy: one that nobody else needs
    DROP = "drop"  # folder
    END = "end"  # state, tags
    DESCRIBE = "describe"  # text
    ARRANGE = "arrange"  # view, as MLflow reads it


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Operation:
    """One thing that is done to a run, or without one to the experiment.

    Attributes:
        fields: what `kind` says, of types that JSON has.
    """

    kind: Kind
    key: RunKey | None
    fields: dict[str, Any]

    @classmethod
    def of_points(cls, key: RunKey, points: Sequence[Point]) -> Operation:
        return cls(Kind.POINTS, key, {"points": [*points]})

    @property
    def points(self) -> list[Point]:
        """Those of one that has some."""
        return [Point(*point) for point in self.fields["points"]]

    def as_line(self) -> str:
        run = [self.key.kind.value, self.key.number] if self.key is not None else None
        return json.dumps({"do": self.kind.value, "run": run, **self.fields}) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> Operation:
        """Reads what `as_line` wrote.

        Raises:
            ValueError, KeyError, TypeError: if it is something else.
        """
        values: dict[str, Any] = json.loads(line)
        run = values.pop("run")
        return cls(Kind(values.pop("do")), RunKey(RunKind(run[0]), run[1]) if run is not None else None, values)


def merged(operations: Sequence[Operation]) -> list[tuple[Operation, int]]:
    """The same with fewer calls: the points of a run that nothing else stands between go together.

    Returns:
        What is to be done in order, each with how many of `operations` it stands for.
    """
    found: list[tuple[Operation, int]] = []
    places: dict[RunKey, int] = {}  # of the points that further ones may be added to
    for operation in operations:
        if operation.kind is not Kind.POINTS or operation.key is None:
            places.clear()
            found.append((operation, 1))
        elif (place := places.get(operation.key)) is not None:
            found[place][0].fields["points"].extend(operation.fields["points"])
            found[place] = found[place][0], found[place][1] + 1
        else:
            places[operation.key] = len(found)
            found.append((Operation.of_points(operation.key, operation.points), 1))
    return found


def as_fields(dataset: DatasetUse) -> dict[str, Any]:
    return asdict(dataset)


def as_dataset(fields: dict[str, Any]) -> DatasetUse:
    return DatasetUse(**{**fields, "columns": tuple(fields["columns"])})
