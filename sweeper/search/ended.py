"""Why a search ended before its total: its budget, or that it no longer paid; and whether that still holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sweeper.config.schema import Config

ENDED = "ended"  # attribute of a study


@dataclass(frozen=True)
class Ended:
    """An end before the total.

    Attributes:
        key: the setting that ended it, such as `budget.usd`.
        message: the reason with its figures, for persons.
        figures: the same for programs.
    """

    key: str
    message: str
    figures: dict[str, Any] = field(default_factory=dict)

    def kept(self, config: Config, is_closed: bool) -> dict[str, Any]:
        """What the study remembers of it.

        Args:
            is_closed: whether all that could still be paid has been done: its best confirmed, and scored.
        """
        return {**asdict(self), "settings": _settings(config, self.key), "is_closed": is_closed}


def holds(ended: dict[str, Any] | None, config: Config) -> bool:
    """Whether what ended a search still does: a limit that was raised, or is gone, does not."""
    if ended is None:
        return False
    was, now = ended["settings"], _settings(config, ended["key"])
    if ended["key"].startswith("budget."):
        return now is not None and now <= was
    return bool(now == was)


def _settings(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    if section == "budget":
        return getattr(config.budget, name)
    return config.stop.model_dump(mode="json")
