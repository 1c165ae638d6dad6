"""The task and the metric that a study brings, checked wherever they are called."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number, Real
from pathlib import Path
from typing import Any

from sweeper.config.schema import Config
from sweeper.config.teaching import CustomSection, metric_name_problem
from sweeper.custom import CustomTask
from sweeper.custom.code import CURE, Code, place
from sweeper.custom.sources import Sources
from sweeper.errors import CustomCodeError
from sweeper.quoting import kind_of

METRIC, TASK = "objective.metric._target_", "task._target_"
Rows = Sequence[Mapping[str, Any]]


class Scorer:
    """A function of the user's from rows and predictions to numbers, whose result is checked.

    Args:
        what: it is called that in errors.
        name: of the number that the search goes by, if it is among its own.
    """

    def __init__(
        self, code: Code, what: str, function: Callable[..., Any], arguments: Mapping[str, Any], name: str | None
    ) -> None:
        self._code, self._function, self._arguments, self._name = code, function, dict(arguments), name
        self.what = what
        self._names: list[str] | None = None
        try:
            inspect.signature(function).bind([], [], **arguments)
        except TypeError as error:
            given = "".join(f", {key}=…" for key in arguments)
            raise CustomCodeError(
                f"{what} is called with (rows, predictions{given}), but {error}:\n  {place(function)}\n{CURE}"
            ) from None
        except ValueError:  # it is not written in Python
            return

    def __call__(self, rows: Rows, predictions: Sequence[str]) -> dict[str, float]:
        """The numbers, by their names.

        Raises:
            CustomCodeError: if it raises, or what it returns is not usable.
        """
        copies = [dict(row) for row in rows]  # what it does to them stays its own
        returned = self._code.call(
            f"{self.what} raised an exception", self._function, copies, list(predictions), **self._arguments
        )
        if problem := self._problem(returned):
            raise CustomCodeError(
                f"{self.what} must return a dict of finite numbers by their names, {problem}:\n"
                f"  {place(self._function)}\n{CURE}"
            )
        self._names = list(returned)
        return {name: float(value) for name, value in returned.items()}

    def _problem(self, returned: Any) -> str | None:
        if not isinstance(returned, dict):
            return f"but returned {_brief(returned)}"
        for name, value in returned.items():
            is_error = isinstance(name, str) and name.endswith("_se") and name.removesuffix("_se") in returned
            if not is_error and (problem := metric_name_problem(name)):
                return f"but {problem}"
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                return f"also where predictions are wrong or all alike, but `{name}` is {_brief(value)}"
        if self._name is not None and self._name not in returned:
            return f"among them `{self._name}`, which the search goes by, but returned {', '.join(returned) or 'none'}"
        if self._names is not None and set(self._names) != set(returned):
            return f"the same names each time, but returned {', '.join(returned)} after {', '.join(self._names)}"
        return None


class OwnTask:
    """The task that a study brings."""

    def __init__(self, code: Code, section: CustomSection, name: str | None) -> None:
        self._code, self.what = code, f"task `{section.target}`"
        kind = code.find(section.target)
        if not (isinstance(kind, type) and issubclass(kind, CustomTask)):
            raise CustomCodeError(
                f"{TASK} must name a class derived from sweeper.custom.CustomTask, but {section.target} is "
                f"{_brief(kind)}:\n  {place(kind)}\n{CURE}"
            )
        if lacking := sorted(kind.__abstractmethods__):
            raise CustomCodeError(
                f"{self.what} must have `prompt`, `answer` and `score`, but lacks {', '.join(lacking)}:\n"
                f"  {place(kind)}\n{CURE}"
            )
        made = code.call(f"{self.what} could not be made with task.arguments", kind, **section.arguments)
        self._made = made
        self.score = Scorer(code, f"`score` of {self.what}", made.score, {}, name)

    def prompt(self, row: Mapping[str, Any], where: str) -> Any:
        """What is asked in a row, as the user's class says; raises CustomCodeError if it raises."""
        return self._code.call(f"`prompt` of {self.what} raised an exception{where}", self._made.prompt, dict(row))

    def answer(self, row: Mapping[str, Any], where: str) -> Any:
        """Its answer or answers, as the user's class says; raises CustomCodeError if it raises."""
        return self._code.call(f"`answer` of {self.what} raised an exception{where}", self._made.answer, dict(row))


@dataclass(frozen=True)
class Own:
    """What a study brings; most studies bring nothing."""

    sources: Sources
    task: OwnTask | None = None
    metric: Scorer | None = None

    @property
    def sha256(self) -> str | None:
        """Of the code; None where there is none."""
        return self.sources.sha256 if self.task is not None or self.metric is not None else None

    def keep(self, copy: Path) -> None:
        """Keeps a copy of the code with the study, where there is any."""
        if self.sha256 is not None:
            self.sources.keep(copy)


def load(config: Config, copy: Path | None = None) -> Own:
    """Imports what a study brings.

    Args:
        copy: of its sources, which the study keeps; None: from the study's folder.

    Raises:
        ConfigError, StoreError: if a module is not there.
        CustomCodeError: if it cannot be imported, or is not what it must be.
    """
    section, metric, targets = config.task, config.objective.metric, _targets(config)
    if not targets:
        return Own(Sources())
    folder = Path(config.study.folder).expanduser().absolute() if config.study.folder is not None else None
    sources = Sources.of(folder, targets) if copy is None else Sources.kept(copy, folder, targets)
    code = Code(sources)
    name = config.objective.metric_name
    task = OwnTask(code, section, None if METRIC in targets else name) if isinstance(section, CustomSection) else None
    return Own(sources, task, _metric(code, metric, name) if isinstance(metric, dict) else None)


def kept(config: Config, copy: Path) -> Sources | None:
    """The copy that a study keeps of its own code; None where there is none."""
    targets = _targets(config)
    return Sources.kept(copy, None, targets) if targets and copy.is_dir() else None


def load_task(section: CustomSection, copy: Path) -> OwnTask:
    """The task of an exported adapter, from the copy of its sources there; raises as `load` does."""
    return OwnTask(Code(Sources.kept(copy, None, {TASK: section.target})), section, None)


def _targets(config: Config) -> dict[str, str]:
    """What of the configuration names code of the user's, by its key."""
    section, metric = config.task, config.objective.metric
    targets = {METRIC: str(metric["_target_"])} if isinstance(metric, dict) else {}
    if isinstance(section, CustomSection):
        targets[TASK] = section.target
    return targets


def _metric(code: Code, metric: Mapping[str, Any], name: str) -> Scorer:
    what = f"metric `{metric['_target_']}`"
    function = code.find(metric["_target_"])
    if not callable(function) or isinstance(function, type):
        raise CustomCodeError(f"{METRIC} must name a function, but {metric['_target_']} is {_brief(function)}\n{CURE}")
    arguments = {key: value for key, value in metric.items() if key not in ("_target_", "name")}
    return Scorer(code, what, function, arguments, name)


def _brief(value: Any) -> str:
    """What was found, but for what may be the text of a row."""
    is_plain = value is None or callable(value) or isinstance(value, Number)
    return f"{value!r:.80} ({type(value).__name__})" if is_plain else kind_of(value)
