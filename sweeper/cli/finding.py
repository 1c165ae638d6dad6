"""What `sweeper doctor` finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    is_ok: bool
    detail: str
    cure: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
