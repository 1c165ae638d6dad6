"""What was measured is kept: in the trial's folder, and on its run in MLflow beside its quality."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.config.schema import Config
from sweeper.errors import ExportError
from sweeper.export.staging import MANIFEST
from sweeper.paths import StudyPaths, write_atomically
from sweeper.tracking.place import Place, record
from sweeper.tracking.spool import unsent, waiting
from sweeper.tracking.tracker import RunKey
from sweeper.trial import RunKind

FILE = "inference.json"  # beside an exported adapter


def keep(paths: StudyPaths, number: int, found: dict[str, Any]) -> Path:
    """Writes it to the trial's folder; returns the file."""
    file = paths.inference(number)
    write_atomically(file, json.dumps(found, indent=1))
    return file


def kept(paths: StudyPaths, number: int) -> dict[str, Any] | None:
    """What is kept of a trial; None where it was not measured, or the file is damaged."""
    try:
        found: dict[str, Any] = json.loads(paths.inference(number).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def log(
    paths: StudyPaths,
    config: Config,
    number: int,
    examples: int,
    metrics: dict[str, float],
    announce: Callable[[str], None],
) -> None:
    """Logs the metrics, and the file that `keep` wrote, on the trial's run.

    Args:
        examples: that the trial has seen, which is the step.

    Raises:
        TrackingError: if a server cannot be reached, or refuses.
    """
    from sweeper.tracking.opened import opened  # MLflow takes seconds to import, which reading does not need

    place, known = Place.of(config), record(paths)
    if place.uri is None and known is not None and known.places:
        announce(
            f"note: the study's runs are in {known.places[-1]}, where this is not logged: tracking.uri or "
            "MLFLOW_TRACKING_URI must say so"
        )
        return
    tracker, key = opened(paths, config), RunKey(RunKind.TRIAL, number)
    if key not in tracker.states():
        count = waiting(paths.spool)
        why = unsent(count, paths) if count else f"MLflow has no run of trial {number} any more"
        announce(f"note: {why}: this is not logged there")
        return
    tracker.log(key, metrics, step=examples)
    tracker.log_file(key, paths.inference(number))
    tracker.flush()


def save(folder: Path, found: dict[str, Any]) -> Path:
    """Writes it beside an exported adapter; returns the file.

    Raises:
        ExportError: if the folder cannot be written.
    """
    file = folder / FILE
    try:
        write_atomically(file, json.dumps(found, indent=1))
    except OSError as error:
        raise ExportError(
            f"--save: must be able to write beside {folder / MANIFEST}, but {error.strerror}; leave --save out, and "
            "--json prints it all"
        ) from None
    return file
