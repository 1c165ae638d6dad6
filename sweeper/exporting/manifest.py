"""`sweeper.json`: what an exported folder is, and the sha256 of every file in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sweeper.errors import ExportError
from sweeper.exporting.formats import ADAPTER, GGUF
from sweeper.paths import write_atomically

MANIFEST = "sweeper.json"
CONFIG = "adapter_config.json"  # PEFT's name
INFERENCE = "inference.json"  # how fast it answers, and what that costs, where that was measured
CODE = "code"  # of a task of the study's own
_NEEDED = ("study", "trial", "model", "prompt", "task", "columns", "labels", "data_sha256", "sha256")
PREDICTIONS = "predictions.jsonl"  # of the exported folder itself, row by row


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes it, with the hash of every file that is there."""
    add_hashes(folder, manifest)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2), is_for_all=True)


def add_hashes(folder: Path, manifest: dict[str, Any]) -> None:
    """Adds the hashes of the files that are there, but for those that it has already."""
    hashes = manifest.setdefault("sha256", {})
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in {MANIFEST, *hashes}:
            hashes[name] = sha256(file)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder.

    Raises:
        ExportError: if the folder is not an export, or its manifest lacks something.
    """
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"an exported folder has a readable {MANIFEST}, but {folder} has not ({error}); "
            "write one with `sweeper export STUDY --to DIR`"
        ) from None
    missing = [key for key in _NEEDED if key not in manifest] if isinstance(manifest, dict) else _NEEDED
    if missing:
        raise ExportError(f"{folder} is not a whole export ({MANIFEST} lacks {', '.join(missing)}); export it again")
    return {"format": ADAPTER, **manifest}  # older ones lack it


def check_use(folder: Path, manifest: dict[str, Any], trusts_code: bool) -> None:
    """Refuses what is not used here, and code of the model's repository where nobody has said that it may run.

    Raises:
        ExportError: saying which.
    """
    if manifest["format"] == GGUF:
        raise ExportError(f"a GGUF file is for llama.cpp and Ollama, but {folder} is one; export --format merged too")
    if manifest["model"].get("trust_remote_code") and not trusts_code:
        raise ExportError(
            "a model that is made of code in its repository is loaded only where that is said, but that of "
            f"{folder} is: look at it, and say --trust-code"
        )


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuses files that are not as they were exported; others may lie beside them.

    Raises:
        ExportError: naming those that changed, or are gone.
    """
    if gone := [name for name in manifest["sha256"] if not (folder / name).is_file()]:
        raise ExportError(f"{folder} is not a whole export, without {', '.join(gone)}; export it again")
    if changed := [name for name, value in manifest["sha256"].items() if sha256(folder / name) != value]:
        raise ExportError(f"the files of {folder} must be as they were exported, but changed: {', '.join(changed)}")


def sha256(file: Path) -> str:
    """Of a file's content, which may be larger than the memory."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
