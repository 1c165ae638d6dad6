"""What a study will write, by place, against what is free there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sweeper.config.schema import Config
from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.preflight.architecture import Widths
from sweeper.preflight.choices import ranks
from sweeper.units import GIB, size_text

NEARLY_BYTES = GIB  # less than this left over is said
WEIGHT_BYTES = 4  # of an adapter's value: float32
MOMENTS_BYTES = 8  # AdamW's two


@dataclass(frozen=True)
class Need:
    """Something that will be written.

    Attributes:
        folder: where; it need not be there yet.
        remedy: how to have it elsewhere, or less of it.
    """

    what: str
    folder: Path
    size_bytes: int
    remedy: str


@dataclass(frozen=True)
class Room:
    """A file system, and what will be written to it."""

    folder: Path  # the first place on it
    free_bytes: int = field(compare=False)  # others write there too
    needs: tuple[Need, ...]

    @property
    def needed_bytes(self) -> int:
        return sum(need.size_bytes for need in self.needs)

    def in_words(self) -> str:
        parts = "; ".join(f"{size_text(need.size_bytes)} {need.what} in {need.folder}" for need in self.needs)
        return f"{size_text(self.free_bytes)} free for {size_text(self.needed_bytes)}: {parts}"

    def as_dict(self) -> dict[str, Any]:
        needs = [{**asdict(need), "folder": str(need.folder)} for need in self.needs]
        return {"folder": str(self.folder), "free_bytes": self.free_bytes, "needs": needs}


def rooms(needs: Sequence[Need]) -> list[Room]:
    """The file systems of the places that are written to; places on the same one share it."""
    found: dict[int, list[Need]] = {}
    for need in needs:
        if need.size_bytes > 0:
            found.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    return [
        Room(shared[0].folder, shutil.disk_usage(_existing(shared[0].folder)).free, tuple(shared))
        for shared in found.values()
    ]


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def check(found: Sequence[Room]) -> list[str]:
    """What a person should know of disks that will be nearly full.

    Raises:
        StoreError: if one would be full.
    """
    full = [room for room in found if room.free_bytes < room.needed_bytes]
    if full:
        remedies = dict.fromkeys(need.remedy for room in full for need in room.needs)
        raise StoreError(
            f"the disk must have room for what will be written, but has {'; and '.join(r.in_words() for r in full)}. "
            f"Free {size_text(sum(room.needed_bytes - room.free_bytes for room in full))}, or {', or '.join(remedies)}"
        )
    nearly = [room for room in found if room.free_bytes - room.needed_bytes < NEARLY_BYTES]
    return [f"the disk will be nearly full: {room.in_words()}" for room in nearly]


def with_copy(needs: Sequence[Need], copy: Need) -> list[Need]:
    """`needs`, and a copy that is written only where that leaves enough free."""
    own = [room for room in rooms([*needs, copy]) if copy in room.needs]
    return [*needs, *(copy for room in own if room.free_bytes - room.needed_bytes >= NEARLY_BYTES)]


def spare_bytes(config: Config, home: Home, model: Mapping[str, Any]) -> int:
    """What must stay free for a study on its store's disk: what it will write, and what is nearly nothing."""
    return sum(need.size_bytes for need in of_study(config, home, model)) + NEARLY_BYTES


def of_study(config: Config, home: Home, model: Mapping[str, Any] | None) -> list[Need]:
    """What the trials of a study write to its store, beyond what lies there already; an upper bound.

    Args:
        model: the configuration of transformers; None: it is not known yet, and so is what an adapter takes.
    """
    if model is None:
        return []
    values = adapter_values(config, model)
    paths = home.study(config.study.name)
    # A slot with its best adapter; and the new file of one of them beside the old one.
    one = values * (2 * WEIGHT_BYTES + MOMENTS_BYTES)
    checkpoints = min((config.most_slots + 1) * one, int(config.checkpoint.max_gib * GIB))
    adapters = min(config.store.keep_adapters, config.search.trials) * values * WEIGHT_BYTES
    there = sum(file.stat().st_size for file in paths.trials.glob("*/adapter/*.safetensors"))
    elsewhere = "have the store elsewhere (store.home=DIR)"
    return [
        Need("checkpoints", home.studies, max(0, checkpoints - paths.checkpoints_bytes()),
             f"{elsewhere}, or lower checkpoint.max_gib or engine.slots"),
        Need("adapters that are kept", home.studies, max(0, adapters - there), "lower store.keep_adapters"),
        Need("the same in MLflow", home.artifacts, max(0, adapters - there), "lower store.keep_adapters"),
    ]  # fmt: skip


def adapter_values(config: Config, model: Mapping[str, Any]) -> int:
    """The values of the largest adapter that a study may train, by Llama's shapes."""
    widths = Widths.of(model)
    chosen = config.lora.target_modules if "target_modules" not in config.search.space else "all-linear"
    return ranks(config)[1] * widths.adapter_values(chosen)
