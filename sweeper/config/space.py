"""The search space as configuration: which fields of a trial vary, and over what.

A list is a choice between its values; `{low, high, log, step}` is a range.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
)

from sweeper.errors import unknown
from sweeper.trial import Alpha, TrialParams

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
INTEGERS = {name for name, field in TrialParams.model_fields.items() if field.annotation is int}
PARAMETERS = frozenset(TrialParams.model_fields) | {"alpha_ratio"}
_LIMITS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
    for name, field in TrialParams.model_fields.items()
}
_LIMITS["alpha_ratio"] = TypeAdapter(Alpha)


class Range(BaseModel):
    """An interval with both ends included; whole numbers where the field is one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: StrictInt | StrictFloat
    high: StrictInt | StrictFloat
    log: bool = False
    step: StrictInt | StrictFloat | None = None


Choices = Annotated[list[Scalar], Field(min_length=1)]
Space = Annotated[dict[str, Choices | Range], Field(min_length=1)]


def space_problems(space: dict[str, list[Scalar] | Range]) -> list[str]:
    """Everything that is wrong with a space: its names, its ranges, and each value's limits."""
    problems = []
    for name, parameter in space.items():
        where = f"search.space.{name}"
        if name not in PARAMETERS:
            problems.append(f"{where}: {unknown('parameter', name, PARAMETERS)}")
            continue
        if isinstance(parameter, Range):
            problems += _range_problems(where, name, parameter)
        elif len(set(map(repr, parameter))) != len(parameter):
            problems.append(f"{where}: each choice must be given once, but got {parameter}")
        # A range is valid where both of its ends are.
        ends = [parameter.low, parameter.high] if isinstance(parameter, Range) else parameter
        problems += [f"{where}: {message}" for value in ends for message in _limit_problems(name, value)]
    if {"alpha", "alpha_ratio"} <= set(space):
        problems.append("search.space: alpha and alpha_ratio fix each other; keep one of them")
    return problems


def _limit_problems(name: str, value: Scalar) -> list[str]:
    try:
        _LIMITS[name].validate_python(value, strict=True)
    except ValidationError as error:
        return [f"{item['msg']}, but got {value!r}" for item in error.errors()]
    return []


def _range_problems(where: str, name: str, parameter: Range) -> list[str]:
    got = f"(low={parameter.low}, high={parameter.high}, log={parameter.log}, step={parameter.step})"
    problems = []
    if parameter.low > parameter.high:
        problems.append(f"{where}: low <= high must hold, but got {got}")
    if parameter.log and parameter.low <= 0:
        problems.append(f"{where}: low > 0 must hold for a logarithmic range, but got {got}")
    if parameter.log and parameter.step is not None:
        problems.append(f"{where}: log and step exclude each other, but got {got}")
    if parameter.step is not None and parameter.step <= 0:
        problems.append(f"{where}: step > 0 must hold, but got {got}")
    if name in INTEGERS and not all(isinstance(v, int) for v in (parameter.low, parameter.high, parameter.step or 1)):
        problems.append(f"{where}: low, high and step must be whole numbers, but got {got}")
    if name in {"rslora", "schedule", "target_modules"}:
        problems.append(f"{where}: takes a list of choices, not a range")
    return problems
