"""`sweeper data check`: what is in the rows of a study, before anything is spent on them.

What makes rows unusable is an error of whoever reads, renders or masks them; the rest is found here, and is no error.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.config.schema import Config
from sweeper.custom import own
from sweeper.data import long, rows
from sweeper.data.example import Example
from sweeper.data.prompt import renderer
from sweeper.data.row import Row
from sweeper.models import base, origin
from sweeper.paths import Home
from sweeper.search.views import begun

_SHOWN = 3  # places that a warning names


@dataclass(frozen=True)
class SplitReport:
    """One split: its rows, what became of those that were too long, and tokens with the answer or the room for it."""

    rows: int
    cut: int
    dropped: int
    shortest_tokens: int
    median_tokens: int
    longest_tokens: int


@dataclass(frozen=True)
class DataReport:
    """The rows of a study.

    Attributes:
        labels: rows of each label of the training split, the commonest first; none where answers are written.
        warnings: what may be wrong, with places.
        shown: the first training row as the model sees it, in pieces: text, and whether the loss is on it.
    """

    study: str
    sha256: str
    splits: dict[str, SplitReport]
    labels: dict[str, int]
    warnings: list[str]
    shown: list[tuple[str, bool]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_data(config: Config, home: Home, is_launched: bool = True) -> DataReport:
    """Reads, renders and masks every row.

    Args:
        is_launched: whether a study of this name in the store is the one that is meant.

    Raises:
        DataError, PromptError, ModelError, CustomCodeError: what makes rows unusable, and where.
    """
    paths = home.study(config.study.name)
    section, kept = config.model, None
    if is_launched and begun(home, config.study.name) is not None:
        section, kept = origin.pinned(section, origin.of_study(section, paths)), paths.splits
    data = rows.of(config, kept, own.load(config))
    tokenizer = base.load_tokenizer(section, home)
    rendered = renderer(config, tokenizer, data.labels)
    fitted = long.fit(rendered, data, config.data.long)
    examples = rendered.examples(fitted.data.train)
    lengths = {"train": [len(example) for example in examples]}
    for split in ("validation", "test"):
        selected: list[Row] = getattr(fitted.data, split)
        prompts = rendered.prompts(selected)  # refuses those without room for an answer
        room = rendered.length(selected[0], is_scored=True) - len(prompts[0])
        lengths[split] = [len(prompt) + room for prompt in prompts]
    splits = {}
    for split, tokens in lengths.items():
        counts = fitted.counts.get(split, {"rows": len(tokens), "cut": 0, "dropped": 0})
        splits[split] = SplitReport(
            **counts,
            shortest_tokens=min(tokens),
            median_tokens=round(statistics.median(tokens)),
            longest_tokens=max(tokens),
        )
    return DataReport(
        study=config.study.name,
        sha256=data.sha256,
        splits=splits,
        labels=dict(Counter(row.label for row in data.train if not row.answers).most_common()),
        warnings=[*_repeated(data), *_contradicted(data), *_leaked(data), *_uneven(data)],
        shown=_pieces(examples[0], tokenizer),
    )


def _asked(row: Row) -> Any:
    return row.messages[:-1] or row.text


def _places(found: Iterable[Row]) -> str:
    places = [row.place for row in found]
    return ", ".join(places[:_SHOWN]) + (", …" if len(places) > _SHOWN else "")


def _by_question(selected: Sequence[Row]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in selected:
        found.setdefault(_asked(row), []).append(row)
    return found


def _repeated(data: rows.TaskData) -> list[str]:
    lines = []
    for split in rows.SPLITS:
        again = [row for alike in _by_question(getattr(data, split)).values() for row in alike[1:]]
        if again:
            lines.append(f"{len(again)} rows of {split} ask what an earlier row of it does: {_places(again)}")
    return lines


def _contradicted(data: rows.TaskData) -> list[str]:
    every = [row for split in rows.SPLITS for row in getattr(data, split) if not row.answers]
    found = [alike for alike in _by_question(every).values() if len({row.label for row in alike}) > 1]
    if not found:
        return []
    return [f"{len(found)} texts have more than one label: {_places(row for alike in found for row in alike)}"]


def _leaked(data: rows.TaskData) -> list[str]:
    trained = {_asked(row) for row in data.train}
    lines = []
    for split in ("validation", "test"):
        leaked = [row for row in getattr(data, split) if _asked(row) in trained]
        if leaked:
            lines.append(
                f"{len(leaked)} of {len(getattr(data, split))} rows of {split} are asked in train too, so that their "
                f"score says what was remembered: {_places(leaked)}"
            )
    return lines


def _uneven(data: rows.TaskData) -> list[str]:
    counts = Counter(row.label for row in data.train if not row.answers)
    rare = [label for label, count in counts.items() if count < 5]
    return [f"{len(rare)} labels have fewer than 5 training rows: {', '.join(sorted(rare)[:_SHOWN])}"] if rare else []


def _pieces(example: Example, tokenizer: Any) -> list[tuple[str, bool]]:
    supervised = [False] * len(example.prompt) + [False] * len(example.answer)
    for place in example.supervised:
        supervised[len(example.prompt) + place] = True
    pieces: list[tuple[list[int], bool]] = []
    for token, is_supervised in zip(example.tokens, supervised, strict=True):
        if not pieces or pieces[-1][1] != is_supervised:
            pieces.append(([], is_supervised))
        pieces[-1][0].append(token)
    return [(str(tokenizer.decode(tokens)), is_supervised) for tokens, is_supervised in pieces]
