"""Turns composed values into a `Config`, or into one error that names every problem."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from sweeper.config import combinations, defaults, outside
from sweeper.config.edits import sections
from sweeper.config.marks import key_of
from sweeper.config.schema import BUNDLED, Config, ModelSection, RetentionSection, StudySection, TrainSection
from sweeper.config.space import Choice, Range, Scalar, Space, space_problems, values_of
from sweeper.config.teaching import BUNDLED_SOURCES, KINDS, METRICS, CustomSection, DataSection, WrittenSection
from sweeper.errors import ConfigError, StoreError, unknown
from sweeper.paths import StudyPaths, write_atomically
from sweeper.redaction import redacted, secret_keys
from sweeper.trial import TARGET_PRESETS

PLAIN_TEMPLATE = "{{ text }}"
SECRETS = (
    "the Hub's token belongs in HF_TOKEN or `hf auth login`, MLflow's in MLFLOW_TRACKING_TOKEN or "
    "MLFLOW_TRACKING_PASSWORD, PostgreSQL's in PGPASSWORD, ~/.pgpass or SWEEPER_OPTUNA, and on_finish may say $NAME of "
    "any other variable"
)
Section = TypeVar("Section", ModelSection, DataSection, StudySection, RetentionSection, TrainSection)


def check(values: dict[str, Any]) -> Config:
    """Validates composed configuration values; one that has a secret in it would be copied to many places.

    Raises:
        ConfigError: with every problem that was found, not only the first.
    """
    secret, command = list(secret_keys(values)), str(values.get("on_finish"))
    if "on_finish" not in secret and redacted(command) != command:  # in a command, a part of it may be one
        secret.append("on_finish")
    problems = [f"{key}: must not have a token or a password, which would be stored and shown" for key in secret]
    if problems:
        problems.append(SECRETS)
    try:
        config = _checked(values)
    except ConfigError as error:
        raise ConfigError([*problems, *map(redacted, error.problems)]) from None
    if problems:
        raise ConfigError(problems)
    return config


def _checked(values: dict[str, Any]) -> Config:
    """The configuration that values are, whatever stands in them.

    Raises:
        ConfigError: with every problem that was found.
    """
    config: Config | None = None
    problems: list[str] = []
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems = _problems(error)
    # Apart from the rest, so that a wrong key elsewhere does not hide a wrong range; what is suppressed
    # is a space of the wrong form, which is named above.
    with contextlib.suppress(ValidationError, KeyError, TypeError):
        problems += space_problems(TypeAdapter(Space).validate_python(values["search"]["space"]))
    if config is not None and not problems:
        problems += _cross_problems(config) + combinations.problems(config) + outside.problems(config)
    if problems or config is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    return config


def _cross_problems(config: Config) -> list[str]:
    """Problems of several values together."""
    problems = []
    if config.data.source not in BUNDLED_SOURCES and not config.data.path:
        problems.append(f"data.path: must be set where data.source is {config.data.source}, but it is null")
    shares = [share for share in (config.data.splits.validation, config.data.splits.test) if not isinstance(share, str)]
    if sum(shares) >= 1:
        problems.append(
            f"data.splits: the shares of validation and test must leave rows to train on, but are "
            f"{sum(shares):.3g} in all"
        )
    if config.stop.name == "no-improvement" and config.stop.trials is None and config.stop.usd is None:
        problems.append(
            "stop.trials: this or stop.usd must be set where stop.name is no-improvement, or both, but both are null; "
            "stop=never goes on to the total"
        )
    if config.search.deterministic and (config.cluster.workers or 1) > 1:
        problems.append(
            f"cluster.workers: must be 1 or null where search.deterministic is true, whose asks come in a fixed order, "
            f"but got {config.cluster.workers}"
        )
    if config.search.deterministic and config.engine.slots == "auto":
        problems.append(
            "engine.slots: must be a number where search.deterministic is true, since auto goes by what a step takes, "
            "which is another each time; engine.slots=4"
        )
    if not config.model.path:
        problems.append("model.path: must be a Hub id or a folder, but it is null; try model.path=FOLDER or model=tiny")
    if config.train.examples is not None and config.train.examples < config.evaluation.count:
        problems.append(
            f"evaluation.count: at most train.examples={config.train.examples} evaluations fit, "
            f"but got {config.evaluation.count}"
        )
    problems += [
        f"lora.module_sets.{name}: must be no preset, but {name} is one of {', '.join(TARGET_PRESETS)}"
        for name in config.lora.module_sets
        if name in TARGET_PRESETS
    ]
    return problems + _task_problems(config) + _epochs_problems(config)


def _task_problems(config: Config) -> list[str]:
    """What does not go with the task: columns, metric, length."""
    task, problems = config.task, []
    known, given = KINDS[task.name], config.data.columns.named()
    if isinstance(task, CustomSection) and given:
        problems.append(
            f"data.columns: must all be null where task.name is custom, whose class reads the columns by itself, but "
            f"names {' and '.join(given)}"
        )
    elif tuple(given) not in known:
        problems.append(
            f"data.columns: must name {', or '.join(' and '.join(kind) for kind in known)} where task.name is "
            f"{task.name}, but names {' and '.join(given) or 'none'}; set the others to null"
        )
    if "messages" in given and config.prompt.template.strip() != PLAIN_TEMPLATE:
        problems.append(
            f"prompt.template: must be {PLAIN_TEMPLATE!r} where data.columns has messages, which are used as they are, "
            f"but is {config.prompt.template!r}"
        )
    if ("messages" in given or isinstance(task, CustomSection)) and config.data.long.startswith("cut"):
        where = "data.columns has messages" if given else "task.name is custom"
        problems.append(
            f"data.long: must be block or drop where {where}, none of which is cut, but got {config.data.long!r}"
        )
    if config.data.class_weight is not None and task.name != "classification":
        problems.append(f"data.class_weight: must be null where task.name is {task.name}, which has no classes")
    if isinstance(task, WrittenSection) and task.max_new_tokens >= config.prompt.max_tokens:
        problems.append(
            f"task.max_new_tokens: must leave room for a prompt in prompt.max_tokens={config.prompt.max_tokens}, but "
            f"got {task.max_new_tokens}"
        )
    return problems + _objective_problems(config)


def _objective_problems(config: Config) -> list[str]:
    """What does not go with the metric that the search goes by."""
    objective, own = config.objective, METRICS[config.task.name]
    task = f"where task.name is {config.task.name}"
    if isinstance(objective.metric, dict):
        if objective.metric_name in own:
            return [f"objective.metric.name: must not be a metric of the task, but {task} there is {', '.join(own)}"]
        return []
    if own and objective.metric not in own:
        return [
            f"objective.metric: must be {' or '.join(own)} {task}, or a mapping with _target_ and name, but got "
            f"{objective.metric!r}"
        ]
    if own and objective.is_minimized:
        return [f"objective.direction: must be maximize for {objective.metric}, of which more is better"]
    return []


def _epochs_problems(config: Config) -> list[str]:
    """Trials of different length must be evaluated at the same numbers of examples."""
    searched = config.search.space.get("epochs")
    if searched is None:
        return []
    where = "search.space.epochs"
    if config.train.examples is not None:
        return [f"{where}: train.examples={config.train.examples} fixes the length of a trial; set train.examples=null"]
    if isinstance(searched, Range):
        values: list[Scalar | None] = [searched.low, searched.high, searched.step]
        if searched.step is None:
            return [f"{where}: a range of epochs must have a step, but got (low={searched.low}, high={searched.high})"]
    else:
        values = list(values_of(searched) or [])
    interval = config.train.epochs / config.evaluation.count
    wrong = [v for v in values if isinstance(v, int | float) and abs(v / interval - max(1, round(v / interval))) > 1e-6]
    if not wrong:
        return []
    return [
        f"{where}: every value must be a multiple of train.epochs / evaluation.count = {interval!r}, the interval "
        f"between two evaluations, but got {wrong[0]!r}"
    ]


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        where = ".".join(_readable(path))
        if item["type"] == "extra_forbidden":
            problems.append(f"{where}: {unknown('key', path[-1], _keys_at(path[:-1]))}")
        elif item["type"] == "missing":
            problems.append(f"{where}: is required")
        else:
            problems.append(f"{where}: {item['msg'].removeprefix('Value error, ')}, but got {item['input']!r}")
    return problems


def _readable(path: list[str]) -> list[str]:
    """Leaves out the parts that pydantic adds for the members of a union."""
    kept = [part for part in path if not part.startswith(("list[", "function-", "constrained-"))]
    if len(kept) > 3 and kept[:2] == ["search", "space"]:
        return kept[:3] + [part for part in kept[3:] if part in {"low", "high", "log", "step"}]
    if len(kept) > 1 and kept[0] in {"sampler", "pruner", "stop", "task", "cluster"}:
        return [kept[0], *kept[2:]]
    return kept


def _keys_at(path: list[str]) -> list[str]:
    if path[:2] == ["search", "space"] and len(path) == 4:  # and how the parameter is written
        return list((Choice if path[3] == "choice" else Range).model_fields)
    kinds: list[type[BaseModel]] = [Config]
    for part in path:
        if len(kinds) > 1:  # pydantic names the option of a section that has several
            kinds = [kind for kind in kinds if part in get_args(kind.model_fields["name"].annotation)]
        else:
            kinds = [kind for model in kinds if (field := model.model_fields.get(part)) for kind in sections(field)]
    return [key_of(name, field) for model in kinds for name, field in model.model_fields.items()]


def save(config: Config, paths: StudyPaths) -> None:
    """Writes the composed configuration into the study's folder."""
    write_atomically(paths.config, dump(config))


def dump(config: Config) -> str:
    """The configuration as YAML."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def with_absolute_paths(config: Config) -> Config:
    """Makes paths absolute, so that a study does not depend on where it is launched from."""

    def absolute(section: Section, key: str) -> Section:
        named: str | None = getattr(section, key)
        folder = Path(named or "").expanduser()
        return section.model_copy(update={key: str(folder.resolve())}) if named and folder.exists() else section

    search = config.search
    if search.warm_start is not None:
        search = search.model_copy(update={"warm_start": outside.absolute_source(search.warm_start)})
    retention = config.retention
    for key in ("choices", "passages"):
        if getattr(retention, key) != BUNDLED:
            retention = absolute(retention, key)
    tasks = [
        str(Path(task).expanduser().resolve()) if task.endswith((".yaml", ".yml")) else task
        for task in retention.lm_eval
    ]
    retention = retention.model_copy(update={"lm_eval": tasks})
    sections = {
        "retention": retention,
        "train": absolute(config.train, "replay_text") if config.train.replay_text != BUNDLED else config.train,
        "model": absolute(config.model, "path"),
        "data": absolute(config.data, "path"),
        "study": absolute(config.study, "folder"),
        "search": search,
    }
    return config.model_copy(update=sections)


def load(paths: StudyPaths) -> Config:
    """Reads the configuration of an existing study; a key that the schema has gained since has today's default.

    Raises:
        StoreError: if there is no such study, or its file is gone or cannot be read.
        ConfigError: if what it says is not a configuration, or has a key that there is no more.
    """
    return load_filled(paths)[0]


def load_filled(paths: StudyPaths) -> tuple[Config, list[str]]:
    """Reads the configuration of an existing study as `load` does, and says which keys it lacked."""
    if not paths.root.is_dir():
        raise StoreError(f"there is no study {paths.name!r} in {paths.home.root}; `sweeper list` says which there are")
    if not paths.config.is_file():
        raise StoreError(f"a study has its settings in {paths.config}, but that file is gone")
    try:
        values = yaml.safe_load(paths.config.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"a study's settings must be YAML, but {paths.config} cannot be read: {reason}") from error
    if not isinstance(values, dict):
        raise StoreError(f"a study's settings must be a mapping, but {paths.config} has a {type(values).__name__}")
    gone = defaults.unknown_keys(values)
    if gone:
        raise ConfigError(
            [
                f"{key}: the study {paths.name!r} was begun with this key, but there is none of that name now"
                for key in gone
            ]
            + [f"{paths.config} has the settings; use the version of sweeper that wrote them, or study.name=NEW"]
        )
    filled, missing = defaults.filled(values)
    try:
        return _checked(filled), missing
    except ConfigError as error:  # or they would be looked for on the command line
        raise ConfigError([*error.problems, f"these are the settings of a study that exists: {paths.config}"]) from None
