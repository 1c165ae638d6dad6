"""The base that an exported adapter was trained over, and no other; nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.config.schema import ModelSection
from sweeper.exporting.formats import ADAPTER
from sweeper.models import origin


def pinned_base(manifest: Mapping[str, Any]) -> ModelSection:
    """What a manifest says of the model, with the base at its commit.

    Raises:
        ModelError: if an adapter's base must be on this machine and is not there, or is another one.
    """
    section = ModelSection.model_validate(manifest["model"])
    if manifest["format"] != ADAPTER:
        return section  # a whole model needs no base
    section = origin.pinned(section, origin.Origin(**manifest["base"]) if manifest.get("base") else None)
    origin.find(section)
    return section
