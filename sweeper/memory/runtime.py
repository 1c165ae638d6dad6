"""What a process holds beside tensors, by device: measured by workers, read by plans."""

from __future__ import annotations

import json
from pathlib import Path

from sweeper.paths import write_atomically

_FILE = "runtime.json"


def known_runtime(folder: Path, device: str) -> int | None:
    """Bytes, as a worker measured them last; None where none did."""
    return _read(folder).get(device)


def note_runtime(folder: Path, device: str, size_bytes: int) -> None:
    """Keeps what a worker measured."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _FILE, json.dumps({**_read(folder), device: size_bytes}))


def _read(folder: Path) -> dict[str, int]:
    try:
        known = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or a damaged one: the next worker measures again
        return {}
    return known if isinstance(known, dict) else {}
