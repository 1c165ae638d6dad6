"""`sweeper.json`: what an exported folder is, and the sha256 of every file in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sweeper.errors import ExportError
from sweeper.paths import write_atomically

MANIFEST = "sweeper.json"
CONFIG = "adapter_config.json"  # PEFT's name
CODE = "code"  # of a task of the study's own
PREDICTIONS = "predictions.jsonl"  # of the exported folder itself, row by row


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes it, with the hash of every file that is there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    manifest["sha256"] = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2), is_for_all=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder, whose files must be as they were.

    Raises:
        ExportError: if the folder is not an export, or files have changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        hashes = {str(name): str(value) for name, value in manifest["sha256"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"an exported folder has a readable {MANIFEST}, but {folder} has not ({error}); "
            "write one with `sweeper export STUDY --to DIR`"
        ) from None
    if gone := [name for name in hashes if not (folder / name).is_file()]:
        raise ExportError(f"{folder} is not a whole export, without {', '.join(gone)}; export it again")
    if changed := [name for name, value in hashes.items() if sha256(folder / name) != value]:
        raise ExportError(f"the files of {folder} must be as they were exported, but changed: {', '.join(changed)}")
    return manifest


def sha256(file: Path) -> str:
    """Of a file's content, which may be larger than the memory."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
