"""The items of a retention suite: questions with choices, and passages of general text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from sweeper.config.schema import BUNDLED, RetentionSection
from sweeper.data import files
from sweeper.errors import DataError
from sweeper.quoting import kind_of, name_of
from sweeper.retention import harness
from sweeper.retention.items import Choice, Passage

Item = TypeVar("Item", Choice, Passage)


@dataclass(frozen=True)
class Suite:
    """What retention is measured on."""

    choices: tuple[Choice, ...] = ()
    passages: tuple[Passage, ...] = ()

    def texts(self) -> list[tuple[str, str]]:
        """Every question and every passage, each with its item's id."""
        questions = [(choice.id, choice.question) for choice in self.choices]
        return questions + [(passage.id, passage.text) for passage in self.passages]

    @property
    def sha256(self) -> str:
        """A hash over all items, in order."""
        plain = [list(map(astuple, items)) for items in (self.choices, self.passages)]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def load(section: RetentionSection) -> Suite:
    """Reads the items that a study names.

    Raises:
        DataError: naming the file and line of what is wrong.
    """
    choices, passages = harness.items(section.lm_eval)
    return Suite(
        choices=(*_items("choices", section.choices, _choice), *choices),
        passages=(*_items("passages", section.passages, _passage), *passages),
    )


def _items(key: str, named: str | None, read: Callable[[str, dict[str, Any]], Item]) -> tuple[Item, ...]:
    """The items of one kind."""
    if named is None:
        return ()
    rows = read_rows(f"retention.{key}", named, key, f"; retention.{key}=null goes without")
    items = tuple(read(place, row) for place, row in rows)
    _check_ids(items, [place for place, _ in rows])
    return items


def read_rows(setting: str, named: str, bundled: str, cure: str = "") -> list[files.Raw]:
    """The rows of the bundled file of that name, or of a JSONL file of one's own.

    Raises:
        DataError: naming the setting, or the file and line, of what is wrong.
    """
    if named == BUNDLED:
        with resources.as_file(resources.files("sweeper.retention") / BUNDLED / f"{bundled}.jsonl") as file:
            return files.read_file(file, file.name)
    file = Path(named).expanduser()
    if file.suffix != ".jsonl" or not file.is_file():
        state = "there is no such file" if not file.is_file() else "is another one"
        raise DataError(f"{setting} must be {BUNDLED} or a JSONL file, but {state}: {named}{cure}")
    rows = files.read_file(file, file.name)
    if len(rows) < 2:
        raise DataError(f"{setting} must have two items or more, but {file} has {len(rows)}")
    return rows


def _check_ids(items: Sequence[Item], places: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for item, place in zip(items, places, strict=True):
        if item.id in seen:
            raise DataError(f"{place}: each item must have an id of its own, but has that of {seen[item.id]}")
        seen[item.id] = place


def _choice(place: str, row: dict[str, Any]) -> Choice:
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or len(choices) < 2:
        raise DataError(f"{place}: `choices` must be a list of two texts or more, but is {_found(row, 'choices')}")
    texts = tuple(_text(place, dict(enumerate(choices)), index) for index in range(len(choices)))
    if len({text.strip() for text in texts}) < len(texts):
        raise DataError(f"{place}: each of `choices` must be another text, but two are alike")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(texts):
        found = f"{answer}" if type(answer) is int else _found(row, "answer")
        raise DataError(f"{place}: `answer` must be an index into `choices`, 0 to {len(texts) - 1}, but is {found}")
    return Choice(_text(place, row, "question"), texts, answer, _text(place, row, "id"))


def _passage(place: str, row: dict[str, Any]) -> Passage:
    return Passage(_text(place, row, "text"), _text(place, row, "id"))


def _text(place: str, row: dict[Any, Any], key: Any) -> str:
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        return value
    name = f"`{key}`" if isinstance(key, str) else f"`choices[{key}]`"
    there = f"; the row has {', '.join(map(name_of, row)) or 'nothing'}" if isinstance(key, str) else ""
    raise DataError(f"{place}: {name} must be a text, but is {_found(row, key)}{there}")


def _found(row: dict[Any, Any], key: Any) -> str:
    return kind_of(row[key]) if key in row else "missing"
