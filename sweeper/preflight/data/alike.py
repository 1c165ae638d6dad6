"""Rows that ask the same, or nearly: in one split, in two, with two labels, and in the retention suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.data.likeness import near, question_of, words
from sweeper.data.row import Row
from sweeper.data.rows import SPLITS, TaskData
from sweeper.errors import number_of
from sweeper.preflight.data.finding import Finding
from sweeper.quoting import name_of

_RETENTION = "retention"
_TRAIN, _VALIDATION, _TEST = SPLITS
# What is scored, where its rows must not be, and what its score would say.
_LEAKS = (
    (_VALIDATION, (_TRAIN,), "so that the search goes by what was remembered"),
    (_TEST, (_TRAIN, _VALIDATION), "so that the last score says what was remembered, or chosen by"),
    (_RETENTION, (_TRAIN,), "so that what was kept cannot be told from what was learned"),
)


@dataclass(frozen=True)
class _Asked:
    """What a row asks.

    Attributes:
        exact: as it is, but for spacing.
        normal: without case, and punctuation around words.
        compared: what of it is compared with others that are nearly the same, where `beside` is the same: of a
            question beside a context the question.
    """

    split: str
    row: Row
    exact: str
    normal: str
    compared: str
    beside: str

    @classmethod
    def of(cls, split: str, row: Row) -> _Asked:
        exact = _spaced("\n".join(content for _, content in row.messages[:-1]) or row.text)
        normal = question_of(row)
        if not row.fixed:
            return cls(split, row, exact, normal, normal, "")
        context, question = row.text[: -row.fixed], row.text[-row.fixed :]
        return cls(split, row, exact, normal, " ".join(words(question)), " ".join(words(context)))


def findings(data: TaskData, retention: Sequence[tuple[str, str]]) -> list[Finding]:
    """Everything that is there twice.

    Args:
        retention: the items of the suite that tells what a base has forgotten: their ids and texts.
    """
    asked = [_Asked.of(split, row) for split in SPLITS for row in getattr(data, split)]
    asked += [_Asked.of(_RETENTION, Row(text, "", f"retention item {name_of(name)}")) for name, text in retention]
    alike = _alike(asked)
    leaks = [finding for leak in _LEAKS for finding in _leaked(asked, alike, *leak)]
    return [*_contradictions(asked), *leaks, *_duplicates(asked, alike)]


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _alike(asked: Sequence[_Asked]) -> dict[str, list[_Asked]]:
    """For the normal form of a text, the earlier ones that are nearly the same."""
    first: dict[str, _Asked] = {}
    for one in asked:
        first.setdefault(one.normal, one)
    different = list(first.values())
    found: dict[str, list[_Asked]] = {}
    for earlier, later in near([(one.compared, one.beside) for one in different]):
        found.setdefault(different[later].normal, []).append(different[earlier])
    return found


def _contradictions(asked: Sequence[_Asked]) -> list[Finding]:
    """The same text with different labels: one of them is wrong."""
    by_text: dict[str, list[Row]] = {}
    for one in asked:
        if one.split != _RETENTION and not one.row.answers:
            by_text.setdefault(one.normal, []).append(one.row)
    found = [rows for rows in by_text.values() if len({row.label for row in rows}) > 1]
    if not found:
        return []
    message = f"{number_of(len(found), 'text has', 'texts have')} more than one label, and one of them is wrong"
    return [Finding.error("contradictions", message, [row for rows in found for row in rows])]


def _leaked(
    asked: Sequence[_Asked], alike: dict[str, list[_Asked]], split: str, others: Sequence[str], effect: str
) -> list[Finding]:
    """Rows of a split that are in others: to the letter, or nearly."""
    known = [one for one in asked if one.split in others]
    exact, normal = {one.exact for one in known}, {one.normal for one in known}
    if split == _RETENTION:  # its passages may be what is written
        exact |= {_spaced(answer) for one in known for answer in one.row.answers}
    same, nearly = [], []
    rows = [one for one in asked if one.split == split]
    for one in rows:
        if one.exact in exact:
            same.append(one.row)
        elif one.normal in normal or any(other.split in others for other in alike.get(one.normal, [])):
            nearly.append(one.row)
    what, where = ("texts" if split == _RETENTION else "rows"), " or ".join(others)
    found = []
    if same:
        message = f"{len(same)} of {len(rows)} {what} of {split} are in {where} too, {effect}"
        found.append(Finding.error(f"leak-{split}", message, same))
    if nearly:
        message = f"{len(nearly)} of {len(rows)} {what} of {split} are nearly the same as one of {where}"
        found.append(Finding.warning(f"near-leak-{split}", message, nearly))
    return found


def _duplicates(asked: Sequence[_Asked], alike: dict[str, list[_Asked]]) -> list[Finding]:
    """Rows that are in one split twice, or nearly."""
    found = []
    for split in SPLITS:
        seen: set[str] = set()
        again, nearly = [], []
        for one in asked:
            if one.split != split:
                continue
            if one.normal in seen:
                again.append(one.row)
            elif any(other.split == split for other in alike.get(one.normal, [])):
                nearly.append(one.row)
            seen.add(one.normal)
        for code, rows, what in (("duplicates", again, "what"), ("near-duplicates", nearly, "nearly what")):
            if rows:
                asking = number_of(len(rows), f"row of {split} asks", f"rows of {split} ask")
                message = f"{asking} {what} an earlier row of it does"
                found.append(Finding.warning(code, message, rows))
    return found
