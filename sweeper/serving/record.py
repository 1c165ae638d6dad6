"""What was measured is kept: in the trial's folder, and on its run in MLflow beside its quality."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.config.schema import Config
from sweeper.errors import ExportError
from sweeper.exporting.manifest import INFERENCE, MANIFEST
from sweeper.paths import StudyPaths, write_atomically
from sweeper.tracking.afterwards import run_of


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
    if (found := run_of(paths, config, number, announce)) is None:
        return
    tracker, key = found
    tracker.log(key, metrics, step=examples)
    tracker.log_file(key, paths.inference(number))
    tracker.flush()


def save(folder: Path, found: dict[str, Any]) -> Path:
    """Writes it beside an exported adapter; returns the file.

    Raises:
        ExportError: if the folder cannot be written.
    """
    file = folder / INFERENCE
    try:
        write_atomically(file, json.dumps(found, indent=1))
    except OSError as error:
        raise ExportError(
            f"--save: must be able to write beside {folder / MANIFEST}, but {error.strerror}; leave --save out, and "
            "--json prints it all"
        ) from None
    return file
