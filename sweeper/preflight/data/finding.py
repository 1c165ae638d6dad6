"""What the data doctor finds: a code, how bad it is, how many rows, and where the first of them are.

Nothing of it quotes a row: findings go to terminals, to the study's folder and to its run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from sweeper.data.row import Row
from sweeper.errors import DataError, PromptError

_SHOWN = 3  # places that a finding names


class Severity(StrEnum):
    """What a finding does to a launch: an error stops it, unless `data.allow` names its code."""

    ERROR = "error"
    WARNING = "warning"
    ALLOWED = "allowed"


@dataclass(frozen=True)
class Finding:
    """Something in the rows that a person should know.

    Attributes:
        code: what it is, in a word that `data.allow` may name.
        count: of rows; 0 where it is not of single rows.
        places: the first of them.
    """

    code: str
    severity: Severity
    message: str
    count: int = 0
    places: tuple[str, ...] = ()

    @classmethod
    def error(cls, code: str, message: str, rows: Iterable[Row] = ()) -> Finding:
        return cls._of(code, Severity.ERROR, message, rows)

    @classmethod
    def warning(cls, code: str, message: str, rows: Iterable[Row] = ()) -> Finding:
        return cls._of(code, Severity.WARNING, message, rows)

    @classmethod
    def _of(cls, code: str, severity: Severity, message: str, rows: Iterable[Row]) -> Finding:
        places = [row.place for row in rows]
        return cls(code, severity, message, len(places), tuple(places[:_SHOWN]))

    @classmethod
    def raised(cls, error: DataError | PromptError) -> Finding:
        """What reading or rendering refuses; nothing allows it."""
        return cls.error(error.code, str(error))

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.places) > 0 else ""
        where = f": {', '.join(self.places)}{more}" if self.places else ""
        return f"{self.code}: {self.message}{where}"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "places": list(self.places)}


def allowed(findings: Iterable[Finding], codes: Collection[str], liftable: Collection[str]) -> list[Finding]:
    """The findings; those that are allowed are errors no more."""
    return [
        replace(finding, severity=Severity.ALLOWED)
        if finding.severity is Severity.ERROR and finding.code in codes and finding.code in liftable
        else finding
        for finding in findings
    ]
