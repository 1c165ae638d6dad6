"""What the columns of a file are, and which of them a task is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sweeper.config.teaching import KINDS, ColumnsSection
from sweeper.data import kinds
from sweeper.errors import DataError, unknown

MOST_LABELS = 200
_LABEL_CHARACTERS = 60
_ROWS_PER_LABEL = 4
_FILLED = 0.9  # of the rows, for a column of labels; the check of the rows names the others
_SHOWN = 8

# Words in the name of a column that say what it is for, the plainest first.
_WORDS: dict[str, tuple[str, ...]] = {
    "text": ("text", "body", "message", "content", "description", "utterance", "sentence", "review", "ticket", "tweet",
             "post", "document", "abstract", "comment", "title", "subject", "question"),
    "label": ("label", "category", "class", "intent", "target", "team", "topic", "sentiment", "queue", "department",
              "tag", "type", "kind", "priority", "rating"),
    "prompt": ("prompt", "instruction", "question", "query", "request", "input", "ask"),
    "answer": ("answer", "response", "completion", "output", "reply", "solution", "say", "target"),
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph", "article", "document"),
    "answers": ("answers", "answer"),
    "code": ("code", "function", "func", "snippet", "source"),
    "comment": ("comment", "docstring", "doc", "summary", "documentation"),
}  # fmt: skip
_EXTRA = ("input", "context")  # beside an instruction, and often empty
_GROUP = ("customer", "user", "author", "account", "client", "thread", "conversation", "session", "document", "patient")


@dataclass(frozen=True)
class Column:
    """One column, as its values are.

    Attributes:
        holds: what most of its values are.
        filled: how many rows have a value.
        distinct: how many different values there are.
        characters: the mean length of its texts.
        spaced: the share of its texts that have a space in them: of ids and dates, next to none.
    """

    name: str
    holds: Literal["messages", "texts", "text", "label", "other"]
    filled: int
    distinct: int
    characters: float
    spaced: float

    def rank(self, key: str) -> int | None:
        """How plainly the name says that the column is for `key`, 0 first; None: not at all."""
        words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name).lower())
        found = [place for place, word in enumerate(_WORDS[key]) if word in words]
        return min(found, default=None)


@dataclass(frozen=True)
class Guess:
    """The task that columns make.

    Attributes:
        columns: of `data.columns`, those that are used.
        why: in words.
        others: columns that a prompt could read besides.
        extra: of those, one that belongs behind the prompt where it has something.
        group: a column whose values should perhaps not be in two splits.
    """

    task: str
    columns: dict[str, str]
    why: str
    others: tuple[str, ...] = ()
    extra: str | None = None
    group: Column | None = None


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of rows, in their order."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [_column(name, [row[name] for row in rows if not _is_empty(row.get(name))], len(rows)) for name in names]


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _column(name: str, values: Sequence[Any], rows: int) -> Column:
    texts = [value for value in values if isinstance(value, str)]
    distinct = len({repr(value) for value in values})
    made = Column(
        name=name,
        holds=_kind(values, distinct, rows),
        filled=len(values),
        distinct=distinct,
        characters=sum(map(len, texts)) / len(texts) if texts else 0.0,
        spaced=sum(" " in text.strip() for text in texts) / len(texts) if texts else 0.0,
    )
    # One label everywhere is a mistake that the check of the rows names, where the column says that it is one.
    return replace(made, holds="label") if made.rank("label") is not None and _is_one_label(values, rows) else made


def _is_one_label(values: Sequence[Any], rows: int) -> bool:
    return (
        len(values) == rows > 1
        and len({repr(value) for value in values}) == 1
        and len(str(values[0])) <= (_LABEL_CHARACTERS)
    )


def _kind(values: Sequence[Any], distinct: int, rows: int) -> Any:
    if not values:
        return "other"
    if all(_reads(kinds.read_messages, value) for value in values[:_SHOWN]):
        return "messages"
    first = values[0]
    if not isinstance(first, str | int) or isinstance(first, bool):
        return "texts" if all(_reads(kinds.read_answers, value) for value in values[:_SHOWN]) else "other"
    is_short = all(len(str(value)) <= _LABEL_CHARACTERS for value in values)
    is_whole = len(values) >= _FILLED * rows
    if is_whole and is_short and 2 <= distinct <= min(MOST_LABELS, max(2, rows // _ROWS_PER_LABEL)):
        return "label"
    return "text" if isinstance(first, str) else "other"


def _reads(read: Callable[[Any, str], Any], value: Any) -> bool:
    try:
        read(value, "")
    except ValueError:
        return False
    return True


def guess(columns: Sequence[Column], task: str | None, chosen: Mapping[str, str]) -> Guess:
    """The task that columns make.

    Args:
        task: the one that is wanted; None: whichever the columns are for.
        chosen: columns that are given, by their key of `data.columns`.

    Raises:
        DataError: if they make none, or there is no telling; it lists the columns and says how to choose.
    """
    names = [column.name for column in columns]
    for key, name in chosen.items():
        if name not in names:
            raise DataError(f"--column {key}: {unknown('column', name, names)}")
    for kind_task, keys in _in_turn(task):
        if not set(chosen) <= set(keys):
            continue
        found = _matched(columns, keys, chosen)
        if found is not None:
            return _guess(columns, kind_task, found, chosen)
    wanted = " and ".join(f"`{key}`" for key in chosen)
    kinds_ = list(dict.fromkeys(keys for _, keys in _in_turn(task)))
    pairs = [keys for keys in reversed(kinds_) if len(keys) == 2][:2]
    raise DataError(
        f"the columns must make a task{f' of {task}' if task else ''}, but which is for what could not be told"
        f"{f' with {wanted} as given' if chosen else ''}:\n{_listed(columns)}\n"
        f"Say it, such as {', or '.join(' '.join(f'--column {key}=NAME' for key in keys) for keys in pairs)}; keys: "
        + "; ".join(map(", ".join, kinds_))
    )


def _in_turn(task: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """The kinds of rows, those first that a file has least by chance."""
    [(text_and_label)] = KINDS["classification"]
    by_key = {keys[0]: keys for keys in KINDS["generation"]}
    turn = [
        (name, by_key[key])
        for key in ("messages", "question", "code", "prompt")
        for name in (("comments", "generation") if key == "code" else ("generation", "comments"))
    ]
    return [item for item in [*turn, ("classification", text_and_label)] if task in (None, item[0])]


def _matched(columns: Sequence[Column], keys: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str] | None:
    """A column for each of `keys`; None where one is missing."""
    if tuple(keys) == KINDS["classification"][0]:
        return _text_and_label(columns, chosen)
    found = dict(chosen)
    for key in keys:
        if key in found:
            continue
        free = [column for column in columns if column.name not in found.values()]
        if key == "messages":
            fitting = [column for column in free if column.holds == "messages"]
        else:
            # Questions and answers may recur, as labels do; that there is a context tells.
            held = {"question": ("text", "label"), "answers": ("text", "texts", "label")}.get(key, ("text",))
            fitting = [column for column in free if column.holds in held and column.rank(key) is not None]
        if not fitting:
            return None
        found[key] = min(fitting, key=lambda column: column.rank(key) or 0 if key != "messages" else 0).name
    return found


def _text_and_label(columns: Sequence[Column], chosen: Mapping[str, str]) -> dict[str, str] | None:
    found = dict(chosen)
    if "label" not in found:
        labels = [column for column in columns if column.holds == "label" and column.name not in found.values()]
        named = [column for column in labels if column.rank("label") is not None]
        if not named and len(labels) != 1:
            return None
        found["label"] = min(named or labels, key=lambda column: column.rank("label") or 0).name
    if "text" not in found:
        texts = [column for column in columns if column.holds == "text" and column.name != found["label"]]
        texts = [column for column in texts if column.spaced > 0.5] or texts  # ids and dates are no texts
        named = [column for column in texts if column.rank("text") is not None]
        if not texts:
            return None
        found["text"] = max(named or texts, key=lambda column: column.characters).name
    return found


def _guess(columns: Sequence[Column], task: str, found: dict[str, str], chosen: Mapping[str, str]) -> Guess:
    ordered = {key: found[key] for key in ColumnsSection.model_fields if key in found}
    others = [column for column in columns if column.name not in found.values()]
    extra = next((c for c in others if "prompt" in found and c.holds != "other" and c.name.lower() in _EXTRA), None)
    group = next(
        (c for c in others if 1 < c.distinct < c.filled and set(re.findall(r"[a-z]+", c.name.lower())) & set(_GROUP)),
        None,
    )
    how = "as given" if set(chosen) == set(found) else "by names and values"
    if task == "classification":
        rivals = [c.name for c in others if c.holds == "label" and c.rank("label") is not None]
        how += f"; {', '.join(rivals)} could be labels too" if rivals else ""
    return Guess(
        task=task,
        columns=ordered,
        why=how,
        others=tuple(column.name for column in others if column is not extra),
        extra=extra.name if extra else None,
        group=group,
    )


def _listed(columns: Sequence[Column]) -> str:
    return "\n".join(f"  - {column.name}: {described(column)}" for column in columns)


def described(column: Column) -> str:
    """A column in words, without any of its values."""
    values = f"{column.distinct:,} different in {column.filled:,} rows"
    if column.holds == "messages":
        return f"conversations, {values}"
    if column.holds in ("text", "label") and column.characters:
        what = "texts" if column.holds == "text" else "short values that recur"
        return f"{what} of {column.characters:.0f} characters on average, {values}"
    return f"{'lists of texts' if column.holds == 'texts' else 'values'}, {values}"
