"""An exported folder as its manifest says it is, read and checked without loading a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sweeper.errors import ExportError
from sweeper.export.export import MANIFEST

ADAPTER = "adapter"  # the format of exports from before there were others
_NEEDED = ("study", "trial", "model", "prompt", "task", "columns", "labels", "sha256")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
        ExportError: if the folder is none, or its manifest lacks something.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"an exported folder has a readable {MANIFEST}, but {folder} has not ({error}); "
            "write one with `sweeper export STUDY --to DIR`"
        ) from None
    missing = [key for key in _NEEDED if key not in manifest] if isinstance(manifest, dict) else list(_NEEDED)
    if missing:
        raise ExportError(f"{folder} is not a whole export ({MANIFEST} lacks {', '.join(missing)}); export it again")
    return manifest


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuses files that are not as they were exported.

    Raises:
        ExportError: naming those that changed, or are gone.
    """
    changed = [name for name, sha256 in manifest["sha256"].items() if _sha256(folder / name) != sha256]
    if changed:
        raise ExportError(f"the files of {folder} must be as they were exported, but changed: {', '.join(changed)}")


def _sha256(file: Path) -> str | None:
    """Of a file, read in pieces, since it may be larger than the memory; None where it cannot be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None
