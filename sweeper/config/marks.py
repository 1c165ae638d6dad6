"""Which keys may change while a study goes on: a mark that stands beside the type of each key in the schema.

*Frozen* is what the trials of one study must share to be comparable: what they were trained on, how, what is chosen
from, and what the choice is made by. *Live* is the rest: how long, how fast, where, and at what price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic.fields import FieldInfo

Type = TypeVar("Type")


@dataclass(frozen=True)
class Mark:
    """What a change of a key's value does to a study that has begun.

    Attributes:
        is_frozen: it would be another study.
        alike: values of a frozen key that give the same results; between them it may change.
        frozen_by: another key, dotted, that freezes a live one where it is true.
        reason: why, where that does not go without saying.
    """

    is_frozen: bool
    alike: frozenset[str] = frozenset()
    frozen_by: str | None = None
    reason: str | None = None


def key_of(name: str, field: FieldInfo) -> str:
    """The key of a field: a name that Python does not allow it is its alias."""
    return field.alias or name


Frozen = Annotated[Type, Mark(is_frozen=True)]
Live = Annotated[Type, Mark(is_frozen=False)]
