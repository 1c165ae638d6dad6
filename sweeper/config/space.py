"""The search space as configuration: which fields of a trial vary, and over what.

A list is a choice between its values; `{low, high, log, step}` is a range; `{choices: […]}` is the long
form of a list. `when: {other: value}` makes a parameter exist only where the choice `other` has that
value, or one of a list of values; elsewhere the fixed value of `lora` or `train` holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
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
Values = Annotated[list[Scalar], Field(min_length=1)]
Condition = dict[str, Scalar | Values]


class Range(BaseModel):
    """An interval with both ends included; whole numbers where the field is one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: StrictInt | StrictFloat
    high: StrictInt | StrictFloat
    log: bool = False
    step: StrictInt | StrictFloat | None = None
    when: Condition = Field(default_factory=dict)


class Choice(BaseModel):
    """A choice between values, where it has a condition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: Values
    when: Condition = Field(default_factory=dict)


Parameter = list[Scalar] | Choice | Range


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "choice" if "choices" in value else "range"
    if isinstance(value, Range):
        return "range"
    return "choice" if isinstance(value, Choice) else "values"


Space = Annotated[
    dict[
        str,
        Annotated[
            Annotated[Values, Tag("values")] | Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")],
            Discriminator(_kind),
        ],
    ],
    Field(min_length=1),
]


def values_of(parameter: Parameter) -> list[Scalar] | None:
    """The values of a choice; None for a range."""
    if isinstance(parameter, Range):
        return None
    return parameter.choices if isinstance(parameter, Choice) else parameter


def bounds(parameter: Parameter) -> tuple[float, float]:
    """The lowest and the highest number of a parameter."""
    if isinstance(parameter, Range):
        return parameter.low, parameter.high
    numbers = [float(str(value)) for value in values_of(parameter) or []]
    return min(numbers), max(numbers)


def condition_of(parameter: Parameter) -> dict[str, list[Scalar]]:
    """For each other parameter that this one depends on, the values with which it exists."""
    if isinstance(parameter, list):
        return {}
    return {other: value if isinstance(value, list) else [value] for other, value in parameter.when.items()}


def exists(parameter: Parameter, params: Mapping[str, object]) -> bool:
    """Whether a parameter exists beside those that were chosen before it."""
    return all(other in params and params[other] in values for other, values in condition_of(parameter).items())


def is_conditional(space: Mapping[str, Parameter]) -> bool:
    """Whether any parameter exists only for some choice."""
    return any(condition_of(parameter) for parameter in space.values())


def in_order(space: Mapping[str, Parameter]) -> list[str]:
    """The parameters, each behind those that it depends on; those in a circle are left out."""
    ordered: list[str] = []
    while True:
        ready = [n for n, p in space.items() if n not in ordered and all(o in ordered for o in condition_of(p))]
        if not ready:
            return ordered
        ordered.append(ready[0])


def grid_values(name: str, parameter: Parameter, points: int) -> list[Scalar]:
    """The values of one parameter in a grid: a range without a step gives `points`, evenly or logarithmically."""
    if not isinstance(parameter, Range):
        return list(values_of(parameter) or [])
    low, high = parameter.low, parameter.high
    if parameter.step is not None or (name in INTEGERS and not parameter.log and high - low < points):
        step = parameter.step or 1
        return [low + index * step for index in range(math.floor((high - low) / step + 1e-9) + 1)]
    shares = [index / (points - 1) for index in range(points)] if points > 1 else [0.5]
    values = [low * (high / low) ** share if parameter.log else low + (high - low) * share for share in shares]
    if name in INTEGERS:
        return list(dict.fromkeys(round(value) for value in values))
    # Nine digits, so that the values are the same on every machine.
    return list(dict.fromkeys(float(f"{value:.9g}") for value in values))


def grid(space: Mapping[str, Parameter], points: int) -> Iterator[dict[str, Scalar]]:
    """Every configuration of the grid, in no order that matters."""
    ordered = in_order(space)
    values = {name: grid_values(name, space[name], points) for name in ordered}

    def extend(params: dict[str, Scalar], depth: int) -> Iterator[dict[str, Scalar]]:
        if depth == len(ordered):
            yield params
            return
        name = ordered[depth]
        if not exists(space[name], params):
            yield from extend(params, depth + 1)
            return
        for value in values[name]:
            yield from extend({**params, name: value}, depth + 1)

    if is_conditional(space):
        yield from extend({}, 0)
    else:
        for combination in product(*values.values()):
            yield dict(zip(values, combination, strict=True))


def grid_size(space: Mapping[str, Parameter], points: int) -> int:
    """How many configurations the grid has."""
    if not is_conditional(space):
        return math.prod(len(grid_values(name, parameter, points)) for name, parameter in space.items())
    return sum(1 for _ in grid(space, points))


def contains(name: str, parameter: Parameter, value: object) -> bool:
    """Whether a value is one that a search could choose."""
    values = values_of(parameter)
    if values is not None:
        return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values)
    assert isinstance(parameter, Range)
    if isinstance(value, bool) or not isinstance(value, int | float) or not parameter.low <= value <= parameter.high:
        return False
    if name in INTEGERS and value != int(value):
        return False
    steps = (value - parameter.low) / parameter.step if parameter.step else 0
    return abs(steps - round(steps)) < 1e-9


def space_problems(space: Mapping[str, Parameter]) -> list[str]:
    """Everything that is wrong with a space: its names, its ranges, each value's limits, its conditions."""
    problems = []
    for name, parameter in space.items():
        where = f"search.space.{name}"
        if name not in PARAMETERS:
            problems.append(f"{where}: {unknown('parameter', name, PARAMETERS)}")
            continue
        values = values_of(parameter)
        if isinstance(parameter, Range):
            problems += _range_problems(where, name, parameter)
        elif values is not None and len(set(map(repr, values))) != len(values):
            problems.append(f"{where}: each choice must be given once, but got {values}")
        # A range is valid where both of its ends are.
        ends = [parameter.low, parameter.high] if isinstance(parameter, Range) else values or []
        problems += [f"{where}: {message}" for value in ends for message in limit_problems(name, value)]
        problems += _condition_problems(where, name, parameter, space)
    if {"alpha", "alpha_ratio"} <= set(space):
        problems.append("search.space: alpha and alpha_ratio fix each other; keep one of them")
    circle = sorted(set(space) - set(in_order(space)))
    if circle and not problems:
        problems.append(f"search.space: a condition must not lead back to itself, but {', '.join(circle)} do")
    return problems


def _condition_problems(where: str, name: str, parameter: Parameter, space: Mapping[str, Parameter]) -> list[str]:
    problems = []
    for other, wanted in condition_of(parameter).items():
        if other not in space:
            problems.append(f"{where}.when: {unknown('parameter of the space', other, set(space) - {name})}")
            continue
        choices = values_of(space[other])
        if choices is None:
            problems.append(f"{where}.when: {other} must be a choice, but it is a range")
            continue
        missing = [value for value in wanted if not contains(other, space[other], value)]
        if missing:
            problems.append(f"{where}.when: {other} takes one of {choices}, but got {missing[0]!r}")
    return problems


def limit_problems(name: str, value: object) -> list[str]:
    """What is wrong with one value of a parameter, whatever the space."""
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
