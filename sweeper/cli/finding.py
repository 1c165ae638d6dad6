"""What `sweeper doctor` finds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import click


class State(StrEnum):
    """How much what was found matters."""

    OK = "ok"
    NOTE = "note"  # good to know
    WARNING = "warning"  # sweeper works, but slower, or not all of it
    MISSING = "missing"  # sweeper could not work

    @classmethod
    def of(cls, is_ok: bool) -> State:
        return cls.OK if is_ok else cls.MISSING


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        cure: what to type or to set, where something can be done about it.
    """

    what: str
    state: State
    detail: str
    cure: str | None = None

    @property
    def is_ok(self) -> bool:
        """Whether sweeper can work with it."""
        return self.state is not State.MISSING

    def as_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "state": self.state.value,
            "is_ok": self.is_ok,
            "detail": self.detail,
            "cure": self.cure,
        }


LABELS = {State.OK: "ok  ", State.NOTE: "note", State.WARNING: "WARN", State.MISSING: "FAIL"}


def show(findings: list[Finding], as_json: bool) -> int:
    """Prints what was found; the exit code is 1 where sweeper could not work."""
    missing = [finding.what for finding in findings if finding.state is State.MISSING]
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
        return int(bool(missing))
    for finding in findings:
        click.echo(f"{LABELS[finding.state]} {finding.what}: {finding.detail}")
        if finding.cure:
            click.echo(f"     {finding.cure}")
    limited = [finding.what for finding in findings if finding.state is State.WARNING]
    if missing:
        click.echo(f"sweeper cannot work with this: {', '.join(missing)}")
    else:
        click.echo(
            f"sweeper can work here, within limits: {', '.join(limited)}" if limited else "sweeper can work here"
        )
    return int(bool(missing))
