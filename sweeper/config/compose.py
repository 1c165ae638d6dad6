"""`sweeper launch` as a Hydra application.

The groups lie in conf/; the group `study` is not a folder of YAML files there but the folders of
studies/, each with its config.yaml, and any folder of the user's: `study=/own/folder`. A Hydra
config source of ours presents them as the options of that group, so that Hydra's own listing,
`--info` and error messages cover them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeper.config.check import SECRETS, check
from sweeper.config.groups import GROUPS, bundled_studies, option_names
from sweeper.config.keys import known_keys
from sweeper.config.schema import Config
from sweeper.config.space import PARAMETERS
from sweeper.errors import ConfigError, SweeperError, unknown
from sweeper.redaction import secret_keys

_KEY = re.compile(r"^([A-Za-z_][\w.]*)=")
_OPTION = re.compile(r"([a-z]+)=([\w.-]+)", re.ASCII)
_PARAMETER = re.compile(r"^search\.space\.(\w+)(?:\.([A-Za-z]\w*))?=")
_BRING_OPTIONS = ("-cd", "--config-dir", "-cp", "--config-path")  # flags after which a group may have others
# What has the keys that a model's architecture, a chat template, a person or the user's own code takes.
OPEN = ("model.config.", "prompt.chat_template_kwargs.", "lora.module_sets.", "objective.metric.", "task.arguments.")
_own_folders: dict[str, Path] = {}


class StudySource(ConfigSource):
    """Presents each study folder's config.yaml as an option of the group `study`."""

    @staticmethod
    def scheme() -> str:
        return "study"

    def _file(self, config_path: str) -> Traversable | None:
        group, _, name = config_path.removesuffix(".yaml").partition("/")
        folder = {**bundled_studies(), **_own_folders}.get(name)
        return folder / "config.yaml" if group == "study" and folder is not None else None

    def load_config(self, config_path: str) -> ConfigResult:
        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"Config not found: {config_path}")
        text = file.read_text(encoding="utf-8")
        header = self._get_header_dict(text)
        header["package"] = header["package"] or "_global_"
        return ConfigResult(config=OmegaConf.create(text), path=self.full_path(), provider=self.provider, header=header)

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ("", "study")

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path.strip("/") == "":
            return [] if results_filter == ObjectType.CONFIG else ["study"]
        if config_path.rstrip("/") != "study" or results_filter == ObjectType.GROUP:
            return []
        return sorted({**bundled_studies(), **_own_folders})


class StudySearchPath(SearchPathPlugin):
    """Adds the studies to Hydra's search path, and the groups that a user's study folder brings."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="sweeper", path="study://")
        for folder in _own_folders.values():
            search_path.append(provider="study folder", path=f"file://{folder}")


def composed(arguments: list[str]) -> Config:
    """The configuration of arguments of `sweeper launch`, without Hydra's own flags; for Python code.

    Raises:
        ConfigError: if they cannot be composed, or what they compose is not valid.
    """
    return _config(values_of(arguments))


def values_of(arguments: list[str]) -> dict[str, Any]:
    """What arguments of `sweeper launch` compose, unchecked.

    Raises:
        ConfigError: if they cannot be composed.
    """
    arguments = _ready(arguments)
    try:
        with hydra.initialize_config_module("sweeper.conf", version_base="1.3"):
            plain: Any = OmegaConf.to_container(hydra.compose("config", arguments), resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"arguments of a launch must compose, but {error}") from None
    _name_folder(plain)
    return dict(plain)


def _ready(arguments: list[str]) -> list[str]:
    """Shows Hydra the groups and the user's own study; returns the arguments as it takes them.

    Raises:
        ConfigError: for those that it would not refuse in good words.
    """
    _own_folders.clear()
    for plugin in (StudySource, StudySearchPath):
        Plugins.instance().register(plugin)
    arguments = [_own_study(argument) for argument in arguments]
    _refuse(arguments)
    return arguments


def _config(plain: dict[str, Any]) -> Config:
    if plain["study"]["name"] == MISSING:
        raise ConfigError("study.name: is required; name the study in its config.yaml, or with study.name=NAME")
    return check(plain)


def _name_folder(plain: dict[str, Any]) -> None:
    """A study of one's own has its code in its folder, unless it says another one."""
    if plain["study"]["folder"] is None:
        plain["study"]["folder"] = next(map(str, _own_folders.values()), None)


def main(arguments: list[str], task: Callable[[Config], None], name: str = "launch", does: str | None = None) -> None:
    """Composes a configuration from command-line arguments and calls `task` with it, checked.

    Hydra's own flags work (`--cfg job`, `--info`, `--config-dir`, `--help`); its composition errors
    are printed as they are, with exit code 2.

    Args:
        name: of the command.
        does: what its help says first; None: what conf/ says of a launch.

    Raises:
        ConfigError: for values that compose but are not valid.
    """
    arguments = _ready(arguments)
    if {"-h", "--help"} & set(arguments) and not any(argument.startswith("study=") for argument in arguments):
        arguments.append("study=demo")  # Hydra's help shows a whole configuration
    if does is not None:
        arguments += [f"hydra.help.app_name='sweeper {name}'", f"hydra.help.header='{does}'"]

    @hydra.main(version_base="1.3", config_path="pkg://sweeper.conf", config_name="config")
    def application(values: DictConfig) -> None:
        started.append(values)
        plain: Any = OmegaConf.to_container(values, resolve=True)
        try:
            _name_folder(plain)
            task(_config(plain))
        except SweeperError as error:  # Hydra would print it with a traceback
            refused.append(error)

    refused: list[SweeperError] = []
    started: list[DictConfig] = []

    before = sys.argv
    sys.argv = [f"sweeper {name}", *arguments]
    try:
        application()
    except SystemExit as end:  # Hydra's own refusals have the code that is our answer no
        raise SystemExit(2 if end.code == 1 and not started else end.code) from None
    finally:
        sys.argv = before
    if refused:
        raise refused[0]


def _own_study(argument: str) -> str:
    """Turns `study=/own/folder` into an option of the group `study`."""
    name, _, value = argument.partition("=")
    if name != "study" or not ("/" in value or value.startswith((".", "~"))):
        return argument
    folder = Path(value).expanduser().resolve()
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"study: a study folder has a config.yaml, but {folder} has none")
    try:
        OmegaConf.load(folder / "config.yaml")
    except yaml.YAMLError as error:
        raise ConfigError(f"study: {folder / 'config.yaml'} must be YAML, but {error}") from None
    _own_folders[folder.name] = folder
    escaped = folder.name.replace("\\", "\\\\").replace("'", "\\'")
    return f"study='{escaped}'"  # or 2024 and true would be no names


def _refuse(arguments: list[str]) -> None:
    """Says what Hydra would not say well: what is no setting, unknown keys and options, and why -m is not ours."""
    problems = _not_settings(arguments) + _unknown_options(arguments)
    for argument in arguments:
        if not _is_override(argument) and list(secret_keys(argument.partition("=")[2])):  # Hydra would repeat it
            problems.append(f"{argument.partition('=')[0]}: must not have a token or a password in it; {SECRETS}")
        if argument in {"-m", "--multirun"}:
            problems.append(
                f"{argument}: sweeper searches by itself, packing many trials over one model; "
                "set the values under search.space instead of sweeping over overrides"
            )
        elif _is_override(argument) and OverridesParser.create().parse_override(argument).is_sweep_override():
            key, _, values = argument.partition("=")
            name = key.rpartition(".")[2]
            cure = (
                f"search over it with search.space.{name}=[{values}]"
                if name in PARAMETERS
                else "quote commas of a text"
            )
            problems.append(f"{argument}: must be one value; {cure}")
        match = _KEY.match(argument)
        if match:
            problems += _unknown_key(match[1])
    if problems := problems or _unlike(arguments):
        raise ConfigError(problems)


def _not_settings(arguments: list[str]) -> list[str]:
    problems = []
    for before, argument in pairwise(["", *arguments]):
        if argument in {"-y", "--yes"}:
            problems.append(f"{argument}: is confirm=false here; without a terminal nothing is asked in any case")
        elif "=" not in argument and not argument.startswith(("-", "~")) and not before.startswith("-"):
            is_study = argument in option_names("study") or (Path(argument) / "config.yaml").is_file()
            path = argument if argument in option_names("study") or "/" in argument else f"./{argument}"
            hint = f"; did you mean study={path}?" if is_study else ""
            problems.append(f"{argument}: a setting must be KEY=VALUE, without blanks around the sign{hint}")
    return problems


def _unknown_options(arguments: list[str]) -> list[str]:
    if any(argument.partition("=")[0] in _BRING_OPTIONS for argument in arguments):
        return []
    chosen = [match.groups() for match in map(_OPTION.fullmatch, arguments) if match and match[1] in GROUPS]
    return [
        f"{group}: {unknown('option', name, option_names(group))}"
        for group, name in chosen
        if name not in option_names(group)
    ]


def _unlike(arguments: list[str]) -> list[str]:
    """What Hydra cannot merge: a range of a parameter, or a part of one, into the study's list, and the reverse."""
    overrides = [argument for argument in arguments if _is_override(argument)]
    said = {match: argument for argument in overrides if (match := _PARAMETER.match(argument))}
    if not said:
        return []
    try:
        with hydra.initialize_config_module("sweeper.conf", version_base="1.3"):
            others = hydra.compose("config", [one for one in overrides if one not in said.values()])
    except (HydraException, OmegaConfBaseException, yaml.YAMLError):
        return []  # which is said where all of it is composed
    space: Any = OmegaConf.to_container(others.search.space)
    problems = []
    for match, argument in said.items():
        name, part = match.groups()
        value = {part: None} if part else OverridesParser.create().parse_override(argument).value()
        there = space.get(name)
        if {type(value), type(there)} == {dict, list}:
            problems.append(
                f"{argument.partition('=')[0]}: is {there} so far, and a range cannot be merged with a list; "
                f"replace it by ~search.space.{name} '+search.space.{name}=…'"
            )
    return problems


def _is_override(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _unknown_key(key: str) -> list[str]:
    keys = known_keys()
    if key == "search.space":
        return [
            "search.space: Hydra would merge this with the study's space; set search.space.NAME=… for each parameter, "
            "+search.space.NAME=… for one that the study lacks, ~search.space.NAME to drop one"
        ]
    if key.startswith("search.space."):
        name = key.split(".")[2]
        return [] if name in PARAMETERS else [f"{key}: {unknown('parameter', name, PARAMETERS)}"]
    if key in GROUPS or key in keys or key.startswith(("hydra.", *OPEN)):
        return []
    parent = key.rpartition(".")[0]
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    depth = parent.count(".") + 1 if parent else 0
    near = {name for name in keys if name.startswith(f"{parent}." if parent else "") and name.count(".") == depth}
    return [f"{key}: {unknown('key', key, near | (set() if parent else set(GROUPS)))}"]
