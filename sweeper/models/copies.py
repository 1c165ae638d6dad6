"""Quantised copies of bases, in the store: what each is a copy of, and whether it is whole.

A copy may be used for a base alone whose key is its own: the same weights, quantised in the same way, for the same kind
of device, by the same versions. Its manifest, the last file of it, has the key, and a hash of every other file.
Nothing here loads torch or transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.schema import ModelSection
from sweeper.models import origin
from sweeper.models.origin import Source
from sweeper.versions import installed

FORMAT = 1  # another one would be read otherwise
MANIFEST = "quantised.json"
LOCK = "writing.lock"  # beside the copies: of several processes one writes
# Quantising fewer values takes less than a second on one core of a CPU: a copy would not pay.
WORTH_VALUES = 2**25
_LIBRARIES = ("bitsandbytes", "torch", "transformers")  # any may round otherwise, or name weights otherwise
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME_LENGTH = 40  # of a model's, in a folder's
_HASHING = 4  # files at once


@dataclass(frozen=True)
class Copy:
    """A quantised copy, which may be there or not.

    Attributes:
        key: all that it depends on.
    """

    folder: Path
    key: Mapping[str, Any]

    @property
    def exists(self) -> bool:
        return self.folder.is_dir()

    def fault(self) -> str | None:
        """Why it must not be used, in words; None where it is whole."""
        manifest = _manifest(self.folder)
        if manifest is None:
            return f"it has no {MANIFEST} that can be read"
        if manifest.get("key") != self.key:
            return "it is a copy of something else"
        try:
            found = hashes(self.folder)
        except OSError as error:
            return f"it cannot be read: {error}"
        known = manifest.get("files")
        if not isinstance(known, dict):
            return f"its {MANIFEST} names no files"
        names = sorted(name for name in {*known, *found} if known.get(name) != found.get(name))
        return f"{', '.join(names)} is not as it was written" if names else None


def of(
    section: ModelSection, folder: Path | None, models: Path, quantised: Mapping[str, Any], dtype: str, device: str
) -> Copy | None:
    """The copy of a base; None for one that cannot be told from others, or that brings code of its own.

    Args:
        folder: where its weights lie; None: on the Hub.
        models: of the store.
        quantised: the settings of the quantisation.
        device: its type. CPUs and GPUs add the scales of blocks up in another order, so that their last bits differ.
    """
    source = identity(section, folder)
    if source is None or section.trust_remote_code:
        return None
    key: dict[str, Any] = {
        "format": FORMAT,
        "source": source,
        "quantised": dict(quantised),
        "dtype": dtype,
        "device": device,
        "versions": _versions(),
    }
    mark = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Copy(models / f"{_prefix(section)}{mark[:12]}", json.loads(json.dumps(key)))


def is_known(section: ModelSection, folder: Path | None, models: Path) -> bool:
    """Whether there is a copy of a base by the versions here, whatever device and precision it is for."""
    source = identity(section, folder)
    keys = [(_manifest(copy) or {}).get("key") for copy in models.glob(f"{_prefix(section)}*")]
    wanted = {"source": source, "versions": _versions()}
    return any(isinstance(key, dict) and wanted.items() <= key.items() for key in keys)


def identity(section: ModelSection, folder: Path | None) -> dict[str, Any] | None:
    """What tells a base from all others: a commit, or its files; None for a branch of the Hub, which may move.

    Of a large file parts alone are hashed, for reading all of it may take longer than quantising it; so its time of
    change counts too.
    """
    if folder is None:
        commit = section.revision
        return {"path": section.path, "commit": commit} if commit and _COMMIT.fullmatch(commit) else None
    files = origin.of_files(section, Source("folder", folder)).files
    return {"files": {name: f"{mark} {(folder / name).stat().st_mtime_ns}" for name, mark in files.items()}}


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file of a copy but its manifest, by name."""
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    with ThreadPoolExecutor(_HASHING) as pool:  # hashing lets other threads run
        return dict(zip([file.name for file in files], pool.map(_hash, files), strict=True))


def size_bytes(quantised_values: int, other_values: int, other_bytes: int) -> int:
    """About what a copy takes: four bits a value and a byte for the scale of each 64, and what is not quantised.

    Args:
        other_bytes: of each value that is not quantised.
    """
    return quantised_values // 2 + quantised_values // 60 + other_values * other_bytes


def _prefix(section: ModelSection) -> str:
    return f"{section.name[:_NAME_LENGTH]}-{section.quant}-"


def _versions() -> dict[str, str]:
    return {name: version for name, version in installed().items() if name in _LIBRARIES}


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
