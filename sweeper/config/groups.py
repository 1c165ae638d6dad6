"""The configuration groups of conf/ and their options, without Hydra: names alone."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

GROUPS = ("study", "model", "data", "task", "gpu", "cluster", "sampler", "pruner", "stop")


def bundled_studies() -> dict[str, Traversable]:
    """The studies that ship with the package, by name."""
    folders = resources.files("sweeper.studies").iterdir()
    return {folder.name: folder for folder in folders if folder.is_dir() and (folder / "config.yaml").is_file()}


def option_names(group: str) -> list[str]:
    """What one of the groups can be, sorted; of `study` those that ship with the package."""
    if group == "study":
        return sorted(bundled_studies())
    names = (file.name for file in (resources.files("sweeper.conf") / group).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
