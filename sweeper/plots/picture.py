"""A picture as a file. Figures are made without pyplot, which would look for a screen and keep every figure."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sweeper.errors import StoreError

DPI = 80
COLOURS = ("#3b6fb6", "#c8553d", "#4f9d69", "#8d6cab", "#b8862b", "#5b5b5b", "#2a9d8f", "#d1495b")


def figure(columns: int = 1) -> tuple[Figure, list[Any]]:
    """An empty figure and its axes, from left to right."""
    made = Figure(figsize=(6.4 * columns, 4.4), layout="constrained")
    axes = [made.add_subplot(1, columns, place + 1) for place in range(columns)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
    return made, axes


def write(made: Figure, file: Path) -> None:
    """Writes a figure as PNG; a reader sees the old file or the new one.

    Raises:
        StoreError: if the file cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        os.close(handle)
    except OSError as error:
        raise StoreError(
            f"the picture must go to a folder that can be written, but {file}: {error.strerror}"
        ) from error
    try:
        made.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
