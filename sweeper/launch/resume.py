"""Going on with a study: what must be as it was, what may change, and the record of what did."""

from __future__ import annotations

import time
from typing import Any

import yaml

from sweeper import versions
from sweeper.config import check
from sweeper.config.edits import Edit, edits, marks
from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.errors import ConfigError, DataError
from sweeper.paths import StudyPaths
from sweeper.preflight.model import admit
from sweeper.search.views import StudyView, is_finished


def resume(config: Config, paths: StudyPaths, before: StudyView) -> list[str]:
    """Admits the settings of a launch to a study that exists, and records what they change.

    Returns:
        Lines for the person: what is live and has changed, which settings the study did not have yet, what there is
        to know of its base, and which libraries have other versions than at its first launch.

    Raises:
        ConfigError: with everything that is frozen and differs.
        DataError: if the rows cannot be read.
        ModelError: if the base cannot be had, or is not the one that the study was begun with.
    """
    stored, missing = check.load_filled(paths)
    changed = edits(stored, config)
    _refuse(changed, config, paths, before)
    # A study that is complete loads nothing.
    of_base = [] if is_finished(before, config) else admit(config, paths, goes_on=True)
    now = versions.installed()
    libraries = versions.changes(before.attributes.get("versions", now), now)  # an old study does not know
    unset = [key for key in missing if marks()[key].is_frozen]
    if changed or libraries or unset:
        _record(paths, before, changed, libraries, unset)
    lines = [f"note: {edit}" for edit in changed]
    lines += [f"note: {key}: the study was begun before there was this setting, and has its default" for key in unset]
    lines += [f"note: {line}" for line in of_base]
    if libraries:
        lines.append(f"warning: results may differ from those of the study's first launch: {', '.join(libraries)}")
    return lines


def _refuse(changed: list[Edit], config: Config, paths: StudyPaths, before: StudyView) -> None:
    problems = [str(edit) for edit in changed if edit.is_frozen]
    if not any(edit.key.startswith("data.") for edit in changed):  # or the rows are others, and may not be there
        try:
            now = rows.of(config, paths.splits).sha256
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


def _record(paths: StudyPaths, before: StudyView, changed: list[Edit], libraries: list[str], unset: list[str]) -> None:
    """Adds an entry to the study's record; the worker puts that on the study's run."""
    entry: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "trials": sum(trial.counts for trial in before.trials),  # that had ended
        "changes": [edit.as_dict() for edit in changed],
    }
    if libraries:
        entry["versions"] = libraries
    if unset:
        entry["defaults"] = unset
    with paths.changes.open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True))
