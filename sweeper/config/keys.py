"""The dotted keys of the schema, and the values of those that have only a few."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sweeper.config.marks import key_of
from sweeper.config.schema import Config


def fields() -> dict[str, list[FieldInfo]]:
    """The fields of each dotted key, without members of open sections; several where sections exclude each other."""
    found: dict[str, list[FieldInfo]] = defaultdict(list)

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            found[prefix + key_of(name, field)].append(field)
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            for kind in kinds:
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    walk(kind, f"{prefix}{name}.")

    walk(Config, "")
    return dict(found)


def known_keys() -> set[str]:
    """Every dotted key of the schema."""
    return set(fields())


def words(field: FieldInfo) -> list[str]:
    """The values that can be named, as one writes them: choices, true and false, null."""
    return list(dict.fromkeys(_words(field.annotation)))


def _words(kind: Any) -> Iterator[str]:
    if kind is bool:
        yield from ("true", "false")
    elif kind is NoneType:
        yield "null"
    elif get_origin(kind) is Literal:
        yield from (str(one).lower() if isinstance(one, bool) else str(one) for one in get_args(kind))
    elif get_origin(kind) is Annotated:
        yield from _words(get_args(kind)[0])
    elif not isinstance(kind, type) and get_origin(kind) not in (list, dict, tuple):
        for part in get_args(kind):  # of a union
            yield from _words(part)
