"""Today's defaults for the settings of a study that an earlier version of sweeper wrote."""

from __future__ import annotations

from importlib import resources
from typing import Any, get_args

from omegaconf import MISSING, OmegaConf
from pydantic import BaseModel

from sweeper.config.edits import sections
from sweeper.config.groups import option_names
from sweeper.config.marks import key_of
from sweeper.config.schema import Config

# What a study goes on without that was begun before there was such a thing: its trials were not told with it.
WITHOUT = frozenset({"retention.choices", "retention.passages"})
OPTION = {"data": "source"}  # the key of a group's section that names its option, where that is not `name`
_GENERAL = {"model": "hub"}  # the option whose defaults hold for one that does not come with sweeper


def unknown_keys(values: dict[str, Any]) -> list[str]:
    """The keys of a configuration that the schema does not have, dotted."""
    return _unknown(Config, values, "")


def filled(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A configuration with today's defaults where it lacks a key, and those keys, dotted; those of `WITHOUT` are null.

    A setting of a group (`model`, `sampler`, …) has the default of the option that the configuration names.
    """
    missing: list[str] = []
    whole = _filled(Config, values, _defaults(values), "", missing)
    return whole, missing


def _defaults(values: dict[str, Any]) -> dict[str, Any]:
    """What conf/ says for the options of a configuration."""
    main = _read("config")
    found = {name: section for name, section in main.items() if name in Config.model_fields}
    options = [entry for entry in main["defaults"] if isinstance(entry, dict)]
    for group, standard in ((group, option) for entry in options for group, option in entry.items()):
        if group not in Config.model_fields or standard == MISSING:
            continue
        named = (values.get(group) or {}).get(OPTION.get(group, "name"))
        wanted = [named, _GENERAL.get(group, standard), standard] if isinstance(named, str) else [standard]
        chosen = next(name for name in wanted if _is_option(group, name))
        found[group] = {**found.get(group, {}), **_read(f"{group}/{chosen}")[group]}
    return found


def options(group: str) -> dict[str, dict[str, Any]]:
    """What conf/ says for every option of a group, over what it says for all of them."""
    general = _read("config").get(group, {})
    return {name: {**general, **_read(f"{group}/{name}")[group]} for name in option_names(group)}


def _is_option(group: str, name: str) -> bool:
    return (resources.files("sweeper.conf") / group / f"{name}.yaml").is_file()


def _read(name: str) -> dict[str, Any]:
    text = (resources.files("sweeper.conf") / f"{name}.yaml").read_text(encoding="utf-8")
    plain: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    return dict(plain)


def _section(model: type[BaseModel], name: str, values: Any) -> type[BaseModel] | None:
    """The section that a field holds, by the option that its values name; None for a value."""
    kinds = sections(model.model_fields[name])
    if len(kinds) < 2:
        return kinds[0] if kinds else None
    named = values.get("name") if isinstance(values, dict) else None
    return next((kind for kind in kinds if named in get_args(kind.model_fields["name"].annotation)), None)


def _filled(
    model: type[BaseModel], values: dict[str, Any], standard: dict[str, Any], prefix: str, missing: list[str]
) -> dict[str, Any]:
    whole = dict(values)
    for field_name, field in model.model_fields.items():
        name = key_of(field_name, field)
        default = standard.get(name)
        inner = _section(model, field_name, values.get(name, default))
        if name not in values and inner is None:
            if standard.get(name, MISSING) != MISSING:  # else the check says what is missing
                whole[name] = default if prefix + name not in WITHOUT else None
                missing.append(prefix + name)
        elif inner is not None and isinstance(values.get(name, {}), dict):
            below = default if isinstance(default, dict) else {}
            whole[name] = _filled(inner, values.get(name, {}), below, f"{prefix}{name}.", missing)
    return whole


def _unknown(model: type[BaseModel], values: dict[str, Any], prefix: str) -> list[str]:
    found = []
    fields = {key_of(name, field): name for name, field in model.model_fields.items()}
    for name, value in values.items():
        if name not in fields:
            found.append(prefix + name)
            continue
        inner = _section(model, fields[name], value)
        if inner is not None and isinstance(value, dict):
            found += _unknown(inner, value, f"{prefix}{name}.")
    return found
