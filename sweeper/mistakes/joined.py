"""Kept predictions with the rows that they are of, read again from where the study's data lies."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.custom import own
from sweeper.data import rows
from sweeper.data.row import Row
from sweeper.errors import StoreError, SweeperError
from sweeper.mistakes import kept
from sweeper.mistakes.kept import Kept
from sweeper.paths import VALIDATION, StudyPaths
from sweeper.search.views import StudyView

_SHOWN = 5  # places of changed rows that a note lists


@dataclass(frozen=True)
class Judged:
    """One row as it was predicted.

    Attributes:
        row: with its text; None where the data no longer has it as it was.
        base: what the untuned base predicted for it; None where that was not kept.
    """

    kept: Kept
    row: Row | None
    base: Kept | None

    @property
    def text(self) -> str | None:
        return None if self.row is None else self.row.text

    @property
    def truth(self) -> str | None:
        """The right label, or the reference answers."""
        if self.kept.truth is not None or self.row is None:
            return self.kept.truth
        return " | ".join(self.row.answers)


@dataclass(frozen=True)
class Joined:
    """The predictions of one trial, or of the untuned base, for one split.

    Attributes:
        trial: None for the base.
        trained_as: the trial that has the predictions, where this one has the result of another.
        notes: for the person: what could not be read.
    """

    study: str
    split: str
    trial: int | None
    trained_as: int | None
    judged: list[Judged]
    notes: list[str]

    @property
    def wrong(self) -> list[Judged]:
        """The rows that are wrong, the surest first."""
        found = [one for one in self.judged if not one.kept.is_correct]
        return sorted(found, key=lambda one: -(one.kept.confidence or 0.0))

    @property
    def name(self) -> str:
        return "the untuned base" if self.trial is None else f"trial {self.trial}"


def joined(seen: StudyView, paths: StudyPaths, number: int | None, split: str) -> Joined:
    """Joins the predictions of a trial, or without a number of the untuned base, to their rows.

    Raises:
        StoreError: if there is no such trial, or nothing is kept of it.
    """
    owner = None if number is None else owner_of(seen, number)
    file = paths.predictions(owner, split)
    if not file.is_file():
        raise StoreError(why_missing(seen, number, split))
    predictions = kept.read(file)
    file = paths.predictions(None, split)
    of_base = {one.row: one for one in kept.read(file)} if number is not None and file.is_file() else {}
    found, notes = rows_by_hash(check.load(paths), paths, split)
    # By the hash: a row that was moved within its file is still the same.
    judged = [Judged(one, found.get(one.sha256), of_base.get(one.row)) for one in predictions]
    if found and (changed := [one.kept.row for one in judged if one.row is None]):
        notes.append(
            f"{len(changed)} of {len(judged)} rows are no longer in the data as they were scored, and are shown "
            f"without their text: {', '.join(changed[:_SHOWN])}{', …' if len(changed) > _SHOWN else ''}"
        )
    return Joined(seen.name, split, number, owner if owner != number else None, judged, notes)


def chosen(seen: StudyView, number: int | None) -> int:
    """The trial that is asked for, or the winner.

    Raises:
        StoreError: if there is no winner yet.
    """
    if number is not None:
        return number
    if seen.best is None:
        raise StoreError(
            f"study {seen.name!r} has no winner yet ({seen.summary()}); name a trial with --trial N, or take --base"
        )
    return seen.best.number


def owner_of(seen: StudyView, number: int) -> int:
    """The trial whose predictions these are: a repeated configuration was not trained again."""
    found = [trial for trial in seen.trials if trial.number == number]
    if not found:
        raise StoreError(f"study {seen.name!r} has trials 0 to {len(seen.trials) - 1}, but not {number}")
    return number if found[0].same_as is None else found[0].same_as


def why_missing(seen: StudyView, number: int | None, split: str) -> str:
    """Why nothing is kept."""
    if split != VALIDATION:
        test = seen.attributes.get("test", {})
        tested = (
            f"the last winner that was scored is trial {test['trial']}" if "trial" in test else "none was scored yet"
        )
        who = "the untuned base" if number is None else f"trial {number}"
        return (
            f"predictions of the {split} split are of the winner and the untuned base, once the study is finished, but "
            f"none are kept of {who} ({tested}); leave --split out for those of the validation split"
        )
    if number is None:
        return f"study {seen.name!r} has no predictions of the untuned base; it was begun before they were kept"
    trial = next(trial for trial in seen.trials if trial.number == number)
    if not trial.is_told:
        return f"a trial's predictions are kept when it ends, but trial {number} is {trial.state}"
    if not trial.evaluations:
        why = trial.detail or trial.reason or trial.state.lower()
        return f"a trial's predictions are those of its best evaluation, but trial {number} had none ({why})"
    return (
        f"study {seen.name!r} has no predictions of trial {number}, which ended before they were kept; "
        f"`sweeper rerun {seen.name} --trial {number}` makes them"
    )


def rows_by_hash(config: Config, paths: StudyPaths, split: str) -> tuple[dict[str, Row], list[str]]:
    """The rows of a split by their hash; none where the data cannot be read, and why."""
    try:
        data = rows.of(config, paths.splits, own.load(config, paths.code))
    except SweeperError as error:
        return {}, [f"rows are shown without their text, since the data of the study cannot be read: {error}"]
    return {row.sha256: row for row in getattr(data, split)}, []
