"""Which price is asked: the study's, another card's, or one's own, each as `gpu.KEY=VALUE` changes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from sweeper.config import defaults
from sweeper.config.schema import GpuSection
from sweeper.errors import ConfigError, unknown

PREFIX = "gpu."


def gpu_of(own: GpuSection | None, option: str | None, overrides: Sequence[str]) -> GpuSection:
    """The section `gpu` that the price is taken from.

    Args:
        own: of the study; None: there is no study.
        option: of conf/gpu, instead of it.
        overrides: `gpu.KEY=VALUE` entries.

    Raises:
        ConfigError: naming all that is wrong.
    """
    known = defaults.options("gpu")
    if option is not None and option not in known:
        raise ConfigError(f"--gpu: {unknown('option', option, known)}")
    values = own.model_dump() if own is not None and option is None else known[option or "auto"]
    problems = []
    for entry in overrides:
        key, _, text = entry.partition("=")
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX) or "=" not in entry:
            problems.append(f"{entry}: must be {PREFIX}KEY=VALUE, such as gpu.price_usd_per_hour=0.69")
        elif name not in GpuSection.model_fields:
            problems.append(f"{key}: {unknown('key', key, [PREFIX + field for field in GpuSection.model_fields])}")
        else:
            values[name] = _value(text)
    try:
        section = GpuSection.model_validate(values)
    except ValidationError as error:
        problems += [
            f"{PREFIX}{'.'.join(map(str, found['loc']))}: {found['msg']}, but got {found['input']!r}"
            for found in error.errors()
        ]
    if problems:
        raise ConfigError(problems)
    return section


def _value(text: str) -> Any:
    """A value as YAML, and a date as it is written."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, str | int | float | bool | None) else text
