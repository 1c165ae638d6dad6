"""The versions of what a trial's result may depend on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

from sweeper import __version__

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "optuna")


def installed() -> dict[str, str]:
    """The version of sweeper and of each library, without loading it; one that is not there is left out."""
    found = {"sweeper": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What has another version than before, such as `torch 2.10.0 → 2.11.0`."""
    names = dict.fromkeys([*before, *now])
    return [
        f"{name} {before.get(name, 'none')} → {now.get(name, 'none')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def in_words(versions: Mapping[str, str]) -> str:
    """Such as `sweeper 0.1.0, torch 2.10.0`."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
