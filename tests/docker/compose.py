"""Reads docker/compose.yaml as compose does: with its variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")


class UnsetError(Exception):
    """A variable that must be set is not."""


def example() -> dict[str, str]:
    """The variables of `.env.example`, with what they have there."""
    lines = (DOCKER / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled() -> dict[str, str]:
    """What a person has in `docker/.env`: passwords where the example has none."""
    needed = ("POSTGRES_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
    return {**example(), **{name: f"{name.lower()}-4711" for name in needed}}


def composed(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with the variables in it.

    Raises:
        UnsetError: where one is missing or empty that must not be; the message is compose's.
    """

    def value(match: re.Match[str]) -> str:
        name, how, words = match.groups()
        found = variables.get(name, "")
        if found or how is None:
            return found
        if how == ":?":
            raise UnsetError(f"{name}: {words}")
        return str(words)

    def within(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: within(one) for key, one in part.items()}
        if isinstance(part, list):
            return [within(one) for one in part]
        return _VARIABLE.sub(value, part) if isinstance(part, str) else part

    found: dict[str, Any] = within(yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8")))
    return {key: part for key, part in found.items() if not key.startswith("x-")}
