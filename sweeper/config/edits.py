"""What is not as it was when a study goes on, key by key, and what of that makes it another study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sweeper.config.marks import Mark, key_of
from sweeper.config.schema import Config


@dataclass(frozen=True)
class Edit:
    """One value that is another one now.

    Attributes:
        key: dotted; may lead into a value, as in `search.space.rank`.
        was, now: None where there is none.
    """

    key: str
    was: Any
    now: Any
    is_frozen: bool
    reason: str | None = None

    def __str__(self) -> str:
        why = f"; {self.reason}" if self.reason and self.is_frozen else ""
        return f"{self.key}: was {self.was!r}, is {self.now!r}{why}"

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, "was": self.was, "now": self.now}


def sections(field: FieldInfo) -> list[type[BaseModel]]:
    """The sections that a field may hold, more than one where a name chooses; none for a value."""
    if mark_of(field) is not None:
        return []
    kinds = [field.annotation, *get_args(field.annotation)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def mark_of(field: FieldInfo) -> Mark | None:
    """The mark of a value; None for a section."""
    return next((item for item in field.metadata if isinstance(item, Mark)), None)


def marks(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, Mark]:
    """The mark of every value of the schema, by its dotted key.

    Raises:
        TypeError: if one has none, or two sections that exclude each other mark the same key differently.
    """
    found: dict[str, Mark] = {}
    for name, field in model.model_fields.items():
        key = prefix + key_of(name, field)
        mark, inner = mark_of(field), sections(field)
        if mark is None and not inner:
            raise TypeError(f"every key must be marked Frozen or Live, but {key} is not")
        if mark is not None:
            found[key] = mark
        for deeper, other in [item for section in inner for item in marks(section, f"{key}.").items()]:
            if found.setdefault(deeper, other) != other:
                raise TypeError(f"a key must have one mark, but {deeper} has two")
    return found


def edits(before: Config, now: Config) -> list[Edit]:
    """Every value that differs, in the order of the schema."""
    found = []
    for key, mark, was, is_now in _pairs(before, now, ""):
        is_frozen = mark.is_frozen and not (mark.alike and {was, is_now} <= mark.alike)
        if mark.frozen_by is not None:
            is_frozen = is_frozen or bool(_value(now, mark.frozen_by))
        found += [Edit(*difference, is_frozen, mark.reason) for difference in _differences(key, was, is_now)]
    return found


def _pairs(before: BaseModel, now: BaseModel, prefix: str) -> Iterator[tuple[str, Mark, Any, Any]]:
    """Each key with its mark and both of its values."""
    for name, field in type(now).model_fields.items():
        if name not in type(before).model_fields:
            continue  # another kind of section, as its name says
        key, mark = prefix + key_of(name, field), mark_of(field)
        if mark is None:
            yield from _pairs(getattr(before, name), getattr(now, name), f"{key}.")
        else:
            yield key, mark, _plain(before, name), _plain(now, name)


def _plain(section: BaseModel, name: str) -> Any:
    [value] = section.model_dump(mode="json", include={name}).values()
    return value


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _differences(key: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*was, *now]):
            yield from _differences(f"{key}.{name}", was.get(name), now.get(name))
    elif was != now:
        yield key, was, now
