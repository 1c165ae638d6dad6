"""What is compared: a study's winner, a trial of it, its untuned base, or what was exported; and their predictions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sweeper.comparison.scores import OF_LABELS, WRITTEN
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.config.teaching import METRICS
from sweeper.errors import ExportError, StoreError
from sweeper.exporting.manifest import PREDICTIONS, read_manifest
from sweeper.mistakes import kept
from sweeper.mistakes.joined import owner_of, why_missing
from sweeper.mistakes.kept import Kept
from sweeper.paths import TEST, VALIDATION, Home, StudyPaths, is_valid_name
from sweeper.search.views import StudyView, TrialView, study_names, view

PARITY = "parity"  # of its manifest: on which rows the export itself was scored
BASE = "base"


@dataclass(frozen=True)
class Studied:
    """A study of the store."""

    seen: StudyView
    config: Config
    paths: StudyPaths


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        study: its name, also where it is not in the store.
        trial: None for the untuned base.
        trained_as: the trial that has the predictions, where this one has the result of another.
        folder: of an export.
        is_exported: whether the predictions are the exported artifact's own.
        task: the name of its task.
        studied: the study; None where it is not in the store.
        notes: for the person.
    """

    study: str
    trial: int | None
    kept: list[Kept]
    task: str
    studied: Studied | None
    trained_as: int | None = None
    folder: Path | None = None
    is_exported: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Such as `demo, trial 3` or `my-adapter (demo, trial 3)`."""
        words = f"{self.study}, {self.whose}"
        return words if self.folder is None else f"{self.folder.name} ({words})"

    @property
    def whose(self) -> str:
        return "the untuned base" if self.trial is None else f"trial {self.trial}"

    @property
    def owner(self) -> int | None:
        """The trial that was trained."""
        return self.trained_as if self.trained_as is not None else self.trial

    @property
    def view(self) -> TrialView | None:
        """The trial that was trained, where its study is in the store."""
        if self.studied is None or self.owner is None:
            return None
        return next((trial for trial in self.studied.seen.trials if trial.number == self.owner), None)

    @cached_property
    def key(self) -> tuple[str, str]:
        """The study, and in it a name that is another for other predictions."""
        whose = "the untuned base" if self.owner is None else f"trial {self.owner}"
        if self.is_exported:
            said = json.dumps(sorted((one.sha256, one.prediction) for one in self.kept))
            whose += f", export {hashlib.sha256(said.encode()).hexdigest()[:12]}"
        return self.study, whose

    @property
    def objective(self) -> str | None:
        """The metric that its search went by, where that is known."""
        return self.studied.config.objective.metric_name if self.studied is not None else None

    @cached_property
    def metrics(self) -> list[str]:
        """What it can be scored by: its task's metrics, its own, and what is kept of each row."""
        names = dict.fromkeys(METRICS[self.task])
        if self.studied is not None:
            recorded = self.studied.seen.attributes.get("baseline") or {}
            names |= dict.fromkeys(name for name in recorded if "/" not in name and not name.endswith("_se"))
            names |= dict.fromkeys([self.studied.config.objective.metric_name])
        of_rows = WRITTEN if self.kept[0].truth is None else OF_LABELS
        return list(names | dict.fromkeys(of_rows))

    def is_own(self, metric: str) -> bool:
        """Whether a metric comes from the user's code, whatever it is called."""
        if self.studied is None:
            return False
        recorded = self.studied.seen.attributes.get("baseline") or {}
        return metric not in METRICS[self.task] and (metric in recorded or metric == self.objective)


def side_of(home: Home, given: str, split: str) -> Side:
    """What a person has named.

    Args:
        given: `STUDY`, `STUDY:N`, `STUDY:base` or an exported folder.

    Raises:
        StoreError: if there is no such study or trial, or nothing is kept of it for the split.
        ExportError: if the folder is no export, or one without predictions for the split.
    """
    study, mark, which = given.rpartition(":")
    folder = Path(given).expanduser()
    if mark and is_valid_name(study) and not folder.is_dir():
        return _of_study(home, study, which, split)
    if is_valid_name(given) and (home.study(given).config.is_file() or not folder.is_dir()):
        return _of_study(home, given, None, split)
    if not folder.is_dir():
        raise ExportError(
            "what is compared must be STUDY, STUDY:N (trial N), STUDY:base or a folder that `sweeper export` wrote, "
            f"but got {given}"
        )
    return _of_folder(home, folder, split)


def with_test_predictions(seen: StudyView, paths: StudyPaths) -> str:
    """Of which trials predictions for the test split are kept, in words."""
    numbers = [trial.number for trial in seen.trials if paths.predictions(trial.number, TEST).is_file()]
    words = [f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"] if numbers else []
    if paths.predictions(None, TEST).is_file():
        words.append("the untuned base")
    return " and ".join(words) or "none yet"


def _of_study(home: Home, name: str, which: str | None, split: str) -> Side:
    seen, paths = view(home, name), home.study(name)
    if which is None:
        number: int | None = _winner(seen)
    elif which == BASE:
        number = None
    elif which.isdecimal():
        number = int(which)
    else:
        raise StoreError(f"behind {name}: there must be the number of a trial or `{BASE}`, but got {which!r}")
    return _of_trial(Studied(seen, check.load(paths), paths), number, split)


def _winner(seen: StudyView) -> int:
    if seen.best is None:
        raise StoreError(
            f"study {seen.name!r} has no winner yet ({seen.summary()}); name a trial, as {seen.name}:0, or the untuned "
            f"base, as {seen.name}:{BASE}"
        )
    return seen.best.number


def _of_trial(studied: Studied, number: int | None, split: str) -> Side:
    seen, paths = studied.seen, studied.paths
    owner = None if number is None else owner_of(seen, number)
    file = paths.predictions(owner, split)
    if not file.is_file():
        raise StoreError(why_missing(seen, number, split) if split == VALIDATION else _untested(seen, paths, number))
    trained_as = owner if owner != number else None
    notes = []
    if trained_as is not None:
        notes.append(f"trial {number} of {seen.name} is trial {trained_as} again, whose predictions these are")
    return Side(
        study=seen.name,
        trial=number,
        kept=_not_empty(kept.read(file), file),
        task=studied.config.task.name,
        studied=studied,
        trained_as=trained_as,
        notes=notes,
    )


def _untested(seen: StudyView, paths: StudyPaths, number: int | None) -> str:
    who = "the untuned base" if number is None else f"trial {number}"
    return (
        f"a study keeps predictions for the test rows of its winner, its runner-up and the untuned base, once it is "
        f"finished, but of {seen.name!r} there are none of {who}; there are those of: "
        f"{with_test_predictions(seen, paths)}. --split validation compares every trial, on the rows that chose the "
        "winner, which flatters it"
    )


def _of_folder(home: Home, folder: Path, split: str) -> Side:
    manifest = read_manifest(folder)
    study, number = str(manifest["study"]), int(manifest["trial"])
    studied, notes = _in_store(home, study, str(manifest["data_sha256"]))
    file, parity = folder / PREDICTIONS, manifest.get(PARITY) or {}
    scored_split = parity.get("split") if file.is_file() else None
    if scored_split == split:
        predictions = _not_empty(kept.read(file), file)
        return Side(study, number, predictions, manifest["task"]["name"], studied, None, folder, True, notes)
    if studied is None:
        where = f"{', '.join(notes)}; " if notes else f"study {study!r} is not in the store at {home.root}; "
        cure = (
            f"--split {scored_split} compares those"
            if scored_split is not None
            else f"export it again with this version: `sweeper export {study} --trial {number} --to DIR`"
        )
        has = f"those for the {scored_split} rows" if scored_split is not None else "none"
        raise ExportError(
            f"an exported folder is compared by its {PREDICTIONS} for the {split} rows, or by its study, but {folder} "
            f"has {has}; {where}{cure}"
        )
    side = _of_trial(studied, number, split)
    notes += side.notes
    notes.append(
        f"{folder.name} has no predictions of its own for the {split} rows: these are those of trial {number} of "
        f"{study} in the store, before it was exported"
    )
    return Side(study, number, side.kept, side.task, studied, side.trained_as, folder, False, notes)


def _in_store(home: Home, name: str, data_sha256: str) -> tuple[Studied | None, list[str]]:
    """The study that an export is from, and why it is not taken where one of its name is there."""
    if not is_valid_name(name) or not home.has_optuna or name not in study_names(home):
        return None, []
    seen, paths = view(home, name), home.study(name)
    if seen.attributes.get("data_sha256") != data_sha256:
        return None, [f"the study {name!r} of the store has other rows than the one that was exported"]
    return Studied(seen, check.load(paths), paths), []


def _not_empty(predictions: list[Kept], file: Path) -> list[Kept]:
    if not predictions:
        raise StoreError(f"{file} must have a prediction in each line, but is empty")
    return predictions
