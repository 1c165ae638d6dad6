"""The launch that composes a configuration: which arguments, the fewest that a study and its options leave to say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sweeper.config import check, compose, defaults, groups
from sweeper.config.edits import Edit, edits
from sweeper.config.schema import Config
from sweeper.config.space import Space
from sweeper.errors import ConfigError

STORE = ("store.home", "store.optuna")  # where the launch is repeated is up to whoever does
_WORD = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)
_WHERE = re.compile(r"[+~]*(on_finish|store\.|mirror\.|cluster|tracking\.)")  # an argument that is for this machine
_NO_WORD = re.compile(r"(?i)null|true|false|nan|inf")


@dataclass(frozen=True)
class Launch:
    """Arguments of `sweeper launch`.

    Attributes:
        missed: what these do not compose as it was; empty unless a value cannot be said on a command line, or a study's
            own folder is gone.
    """

    arguments: tuple[str, ...]
    missed: tuple[Edit, ...]


def launch_of(config: Config) -> Launch:
    """The arguments that compose a configuration, but for its store."""
    wanted = _plain(config)
    arguments = _options(_study(config, wanted), wanted)
    arguments += list(_overrides(compose.values_of(arguments), wanted, ""))
    try:
        composed = check.with_absolute_paths(check.check(compose.values_of(arguments)))
        missed = [edit for edit in edits(config, composed) if edit.key not in STORE]
    except ConfigError as error:
        missed = [Edit("(all)", None, " ".join(str(error).split()), is_frozen=True)]
    return Launch(tuple(arguments), tuple(missed))


def _plain(config: Config) -> dict[str, Any]:
    plain: dict[str, Any] = config.model_dump(mode="json")
    del plain["store"]["home"], plain["store"]["optuna"]
    return plain


def _study(config: Config, wanted: dict[str, Any]) -> str:
    """The study that has most of it: the folder that is its own, or the bundled one that is most like it."""
    folder = config.study.folder
    if folder is not None and (Path(folder) / "config.yaml").is_file():
        argument = f"study={folder}"
        try:
            compose.values_of([argument])
            return argument
        except ConfigError:  # it has changed since
            pass
    likeness = {}
    for name, place in groups.bundled_studies().items():
        says = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
        # First by what names it: one of a user's own that lies there may say more, and so agree in more.
        is_named = _at(says, "study.description") == config.study.description
        alike = [_at(wanted, key) == value for key, value in _leaves(says)]
        likeness[name] = (is_named, 2 * sum(alike) - len(alike))
    return f"study={max(likeness, key=lambda name: likeness[name])}"


def _options(study: str, wanted: dict[str, Any]) -> list[str]:
    """The study, and the options of other groups than it chooses itself."""
    own = compose.values_of([study])
    chosen = [study]
    for group in groups.GROUPS[1:]:
        key = defaults.OPTION.get(group, "name")
        name = wanted[group][key]
        if own[group].get(key) != name and name in defaults.options(group):
            chosen.append(f"{group}={name}")
    return chosen


def _overrides(there: Any, wanted: dict[str, Any], prefix: str) -> Iterator[str]:
    """What turns composed values into those that are wanted, key by key."""
    for name in there:
        if name not in wanted and prefix + name not in STORE:
            yield f"~{prefix}{name}"
    for name, value in wanted.items():
        key = prefix + name
        if prefix == "search.space.":
            yield from _parameter(there, name, value)
        elif name not in there:
            yield f"+{key}={spoken(value)}"
        elif isinstance(value, dict) and isinstance(there[name], dict):
            yield from _overrides(there[name], value, f"{key}.")
        elif there[name] != value or isinstance(there[name], bool) != isinstance(value, bool):
            yield f"{key}={spoken(value)}"


def _parameter(there: dict[str, Any], name: str, value: Any) -> Iterator[str]:
    """The same for a searched parameter, which is said whole: Hydra would merge two ranges."""
    key = f"search.space.{name}"
    try:
        now = TypeAdapter(Space).dump_python(TypeAdapter(Space).validate_python({name: there[name]}), mode="json")
        if now == {name: value}:
            return
    except (KeyError, ValidationError):
        pass
    if isinstance(value, dict):
        value = {part: said for part, said in value.items() if said not in (None, {}) and said is not False}
    if name not in there:
        yield f"+{key}={spoken(value)}"
    elif isinstance(value, dict):
        yield f"~{key}"
        yield f"+{key}={spoken(value)}"
    else:
        yield f"{key}={spoken(value)}"


def spoken(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{spoken(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(spoken, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if _WORD.fullmatch(value) and not _NO_WORD.fullmatch(value):
        return value
    # Of Hydra: a backslash counts as one unless it stands before a quote; of OmegaConf: ${ would be an interpolation.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    text = re.sub(r"(\\+)\Z", r"\1\1", text)
    return f'"{text}"'


def for_others(arguments: Sequence[str], config: Config) -> tuple[str, ...]:
    """The arguments for whoever launches it elsewhere: without what says where it ran and whom it told.

    Folders that are part of the search are there by their last parts (`without_places`).
    """
    return tuple(without_places(one, config) for one in arguments if not _WHERE.match(one))


def without_places(text: str, config: Config) -> str:
    """A text with each absolute path that a configuration names by its last two parts: `…/rows/train.jsonl`.

    They are those that `check.with_absolute_paths` makes so; a launch has them as `launch_of` says them.
    """
    retention = config.retention
    named = [config.study.folder, config.model.path, config.data.path, config.train.replay_text]
    named += [retention.choices, retention.passages, *retention.lm_eval]
    named.append((config.search.warm_start or "").removeprefix("sqlite:///"))
    short: dict[str, str] = {}
    for path in (Path(one) for one in named if one and Path(one).is_absolute()):
        words = f"…/{'/'.join(path.parts[1:][-2:])}"
        short |= {str(path): words, _within(str(path)): _within(words)}
    if not short:
        return text
    longest_first = sorted(short, key=len, reverse=True)  # a path may begin with another one
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: short[found[0]], text)


def _within(text: str) -> str:
    """A text as it stands between quotes."""
    return spoken(text).removeprefix('"').removesuffix('"')


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values
