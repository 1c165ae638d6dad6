"""Going on with a study: what must be as it was, what may change, and the record of what did."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

import yaml

from sweeper import outcome, versions
from sweeper.config import check, defaults
from sweeper.config.edits import Edit, edits, marks
from sweeper.config.schema import Config
from sweeper.custom import own
from sweeper.custom.sources import kept_sha256
from sweeper.data import rows
from sweeper.errors import ConfigError, CustomCodeError, DataError
from sweeper.paths import StudyPaths, write_atomically
from sweeper.preflight.model import admit
from sweeper.search.views import StudyView, is_finished

# What only launchers read, as all of `cluster`, so that workers which run already need not know of it.
_OF_LAUNCHERS = {"confirm", "on_finish", "preflight.answer_s", "study.description"}
CODE_REASON = "what it scores would not be comparable; it may change where an error of its own stopped the study"


@dataclass(frozen=True)
class Resumption:
    """A launch that is admitted to a study which exists.

    Attributes:
        lines: for the person: what is live and has changed, which settings the study did not have yet, what there is
            to know of its base, and which libraries have other versions than at its first launch.
        changed: the keys that have other values than before, and that workers read.
    """

    lines: list[str]
    changed: list[str]
    _config: Config
    _paths: StudyPaths
    _entry: dict[str, Any] | None
    _code: own.Own | None

    def keep(self) -> None:
        """Makes its settings those of the study, and records what they change."""
        if self._entry is not None:
            file, entry = self._paths.changes, yaml.safe_dump([self._entry], sort_keys=False, allow_unicode=True)
            write_atomically(file, (file.read_text(encoding="utf-8") if file.is_file() else "") + entry)
        if self._code is not None:
            self._code.keep(self._paths.code)
        check.save(self._config, self._paths)


def resume(config: Config, paths: StudyPaths, before: StudyView) -> Resumption:
    """Admits the settings of a launch to a study that exists; nothing is changed yet.

    Raises:
        ConfigError: with everything that is frozen and differs.
        DataError: if the rows cannot be read.
        CustomCodeError: if the study's own code cannot be imported.
        ModelError: if the base cannot be had, or is not the one that the study was begun with.
    """
    stored, missing = check.load_filled(paths)
    changed = edits(stored, config)
    is_other_task = any(edit.is_frozen and edit.key.startswith(("task.", "objective.metric")) for edit in changed)
    brought = own.load(config) if not is_other_task else None  # what is refused is said first
    kept = kept_sha256(paths.code)
    known = kept or before.attributes.get("code_sha256")
    if brought is not None and known not in (None, brought.sha256):
        changed.append(Edit("code", _short(known), _short(brought.sha256), not _has_code_failed(paths), CODE_REASON))
    changed = _with_rows_that_moved(changed, config, paths, before, brought)
    _refuse(changed, config, paths, before, brought)
    # A study that is complete loads nothing.
    of_base = [] if is_finished(before, config) else admit(config, paths, goes_on=True)
    now = versions.installed()
    libraries = versions.changes(before.attributes.get("versions", now), now)  # an old study does not know
    unset = [key for key in missing if marks()[key].is_frozen]
    entry = _entry(before, changed, libraries, unset) if changed or libraries or unset else None
    lines = [f"note: {edit}" for edit in changed]
    has = {True: "goes on without", False: "has its default"}
    lines += [
        f"note: {key}: the study was begun before there was this setting, and {has[key in defaults.WITHOUT]}"
        for key in unset
    ]
    lines += [f"note: {line}" for line in of_base]
    if is_finished(before, config) and any(edit.key.startswith("tracking.") for edit in changed):
        lines.append("note: what changed of tracking takes effect with the study's next trial, for it is complete")
    if libraries:
        lines.append(f"warning: results may differ from those of the study's first launch: {', '.join(libraries)}")
    read = [edit.key for edit in changed if edit.key not in _OF_LAUNCHERS and not edit.key.startswith("cluster.")]
    return Resumption(
        lines, read, config, paths, entry, brought if brought is not None and kept != brought.sha256 else None
    )


def as_begun(config: Config, paths: StudyPaths) -> Config:
    """The settings of a launch, without what the study was begun before: its trials were not told with it.

    Raises:
        StoreError, ConfigError: as `check.load` does.
    """
    stored, lacked = check.load_filled(paths)
    missing = set(lacked)
    if paths.changes.is_file():
        entries = yaml.safe_load(paths.changes.read_text(encoding="utf-8"))
        missing |= {key for entry in entries for key in entry.get("defaults", [])}
    sections = {key.partition(".")[0] for key in defaults.WITHOUT & missing}
    return config.model_copy(update={name: getattr(stored, name) for name in sections})


def _with_rows_that_moved(
    changed: list[Edit], config: Config, paths: StudyPaths, before: StudyView, brought: own.Own | None
) -> list[Edit]:
    """Another place of the same rows is no other data: on another machine they may lie elsewhere."""
    of_data = [edit for edit in changed if edit.key.startswith("data.")]
    known = before.attributes.get("data_sha256")
    if brought is None or known is None or config.data.source != "files" or [e.key for e in of_data] != ["data.path"]:
        return changed
    with contextlib.suppress(DataError):  # rows that cannot be read are not the same
        if rows.of(config, paths.splits, brought).sha256 == known:
            return [replace(edit, is_frozen=False) if edit in of_data else edit for edit in changed]
    return changed


def _short(sha256: str | None) -> str | None:
    return f"{sha256[:12]}…" if sha256 is not None else None


def _has_code_failed(paths: StudyPaths) -> bool:
    """Whether an exception of the study's own code ended its last session."""
    found = outcome.last(paths)
    return found is not None and found.kind == CustomCodeError.__name__


def _refuse(changed: list[Edit], config: Config, paths: StudyPaths, before: StudyView, brought: own.Own | None) -> None:
    problems = [str(edit) for edit in changed if edit.is_frozen]
    is_same_reading = brought is not None and not any(e.is_frozen and e.key.startswith("data.") for e in changed)
    if is_same_reading:  # or the rows are others, and may not be there
        try:
            now = rows.of(config, paths.splits, brought).sha256
        except DataError:
            if not problems:  # or what is refused is said first
                raise
            now = before.attributes.get("data_sha256", "")
        known = before.attributes.get("data_sha256", now)
        if known != now:
            problems.append(f"data: was {known[:12]}…, is {now[:12]}… (sha256 of texts and labels)")
    if problems:
        problems.append(
            f"the study {config.study.name!r} exists with other settings, and these would make its trials "
            "incomparable; set them back, or study.name=NEW starts another"
        )
        raise ConfigError(problems)


def _entry(before: StudyView, changed: list[Edit], libraries: list[str], unset: list[str]) -> dict[str, Any]:
    """What is added to the study's record; the worker puts that on the study's run."""
    entry: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "trials": sum(trial.counts for trial in before.trials),  # that had ended
        "changes": [edit.as_dict() for edit in changed],
    }
    if libraries:
        entry["versions"] = libraries
    if unset:
        entry["defaults"] = unset
    return entry
