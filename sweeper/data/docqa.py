"""The bundled `docqa` data: questions on the language reference that every Python carries (`pydoc_data.topics`).

A passage of whole sentences is the context. Most questions ask which topic it is from, of those that are long; the
others which exception it names, or which keyword, type and so on: the one in the passage. No passage is in two splits.
The same installation always gives the same rows; another version of Python has other documentation (a study
records the sha256 of what it read).
"""

from __future__ import annotations

import builtins
import keyword
import random
import re
from collections import Counter
from collections.abc import Iterator

from sweeper.errors import DataError

SPLIT_ROWS = {"train": 750, "validation": 150, "test": 250}
_SEED = 5
_PASSAGE = range(40, 221)  # characters
_TOPIC_PASSAGES = 60  # at least, of a topic that is asked for
_TOPIC_SHARE = 0.7  # of the rows

_NAME = re.compile(r'"([A-Za-z_][\w.]*)[^"]*"')
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z\"*(])")
_GRAMMAR = ("::=", ">>>", "...")  # what is not prose
_CONSTANTS = {"None", "True", "False"}


def splits() -> dict[str, list[dict[str, object]]]:
    """The train, validation and test rows: fields `id`, `context`, `question`, `answers`.

    Raises:
        DataError: if this Python has too little documentation.
    """
    try:
        from pydoc_data.topics import topics  # which some distributions leave out, and other data does not need
    except ImportError:
        raise DataError(
            "data.source=docqa must find pydoc's topics, but this Python has none; install all of its library"
        ) from None
    origins: dict[str, list[str]] = {}  # passages, and the topics that they are in
    for title in sorted(topics):
        for passage in passages(topics[title]):
            origins.setdefault(passage, []).append(title)
    alone = Counter(titles[0] for titles in origins.values() if len(titles) == 1)

    named: list[tuple[str, str, str]] = []  # passage, question, answer
    placed: list[tuple[str, str, str]] = []
    for passage, titles in origins.items():
        named += [(passage, f"Which {kind} does it name?", name) for kind, name in _names(passage).items()]
        if len(titles) == 1 and alone[titles[0]] >= _TOPIC_PASSAGES:
            placed.append((passage, "Which topic is it from?", titles[0]))
    total = sum(SPLIT_ROWS.values())
    draw = random.Random(_SEED)
    questions = draw.sample(placed, min(len(placed), round(_TOPIC_SHARE * total))) + named
    if len(questions) < total:
        raise DataError(
            f"data.source=docqa must find {total} questions in pydoc's topics, but this Python's have "
            f"{len(questions)}; install all of Python's library"
        )
    return _dealt(questions, draw)


def passages(text: str) -> Iterator[str]:
    """The prose of a topic in passages of whole sentences."""
    for block in re.split(r"\n\s*\n", text):
        prose = " ".join(block.split())
        if any(sign in block for sign in _GRAMMAR) or not prose.endswith((".", ":")):
            continue
        passage = ""
        for sentence in [*_SENTENCE_END.split(prose), ""]:
            longer = f"{passage} {sentence}".strip()
            if sentence and len(longer) < _PASSAGE.stop:
                passage = longer
                continue
            if len(passage) in _PASSAGE:
                yield passage
            passage = sentence


def _names(passage: str) -> dict[str, str]:
    """The kinds of which the passage has one name, and that."""
    found: dict[str, set[str]] = {}
    for match in _NAME.finditer(passage):
        name = match[1].rpartition(".")[2]
        if kind := _kind(name):
            found.setdefault(kind, set()).add(name)
    return {kind: min(names) for kind, names in found.items() if len(names) == 1}


def _kind(name: str) -> str | None:
    if re.fullmatch(r"__\w+__", name):
        return "special name"
    if name in _CONSTANTS:
        return "constant"
    if keyword.iskeyword(name):
        return "keyword"
    known = getattr(builtins, name, None)
    if isinstance(known, type):
        return "exception" if issubclass(known, BaseException) else "type"
    return "function" if callable(known) else None


def _dealt(questions: list[tuple[str, str, str]], draw: random.Random) -> dict[str, list[dict[str, object]]]:
    """Deals passages out to the splits, each with all of its questions."""
    by_passage: dict[str, list[tuple[str, str]]] = {}
    for passage, question, answer in questions:
        by_passage.setdefault(passage, []).append((question, answer))
    order = sorted(by_passage)
    draw.shuffle(order)
    rows: dict[str, list[dict[str, object]]] = {split: [] for split in SPLIT_ROWS}
    for passage in order:
        split = next((name for name, count in SPLIT_ROWS.items() if len(rows[name]) < count), None)
        if split is None:
            break
        for question, answer in by_passage[passage][: SPLIT_ROWS[split] - len(rows[split])]:
            place = f"docqa-{split}-{len(rows[split])}"
            rows[split].append({"id": place, "context": passage, "question": question, "answers": [answer]})
    return rows
