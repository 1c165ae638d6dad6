"""Tasks of EleutherAI's lm-eval as items of a suite: its prompts, choices and texts, which are scored here, packed.

Each item is what lm-eval itself would ask, without examples before it: the very strings of its requests.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sweeper.errors import DataError
from sweeper.quoting import kind_of
from sweeper.retention.items import Choice, Passage

SETTING = "retention.lm_eval"
MULTIPLE_CHOICE, TEXT = "multiple_choice", "loglikelihood_rolling"


def items(named: Sequence[str]) -> tuple[tuple[Choice, ...], tuple[Passage, ...]]:
    """The questions and texts of tasks, by their names or their YAML files.

    Raises:
        DataError: if lm-eval is not installed, a task is not known, its data cannot be had, or it asks for something
            else.
    """
    if not named:
        return (), ()
    manager = _manager(not all(map(_is_file, named)))
    choices: dict[str, Choice] = {}
    passages: dict[str, Passage] = {}
    for name in named:
        for task in _tasks(manager, name):
            try:
                found = list(_of_task(task))
            except DataError:
                raise
            except Exception as error:  # templates and functions of the task's own
                raise DataError(  # the error's own message may quote a row
                    f"{SETTING}: {task.task_name} must make its items of its data, but raises {type(error).__name__}"
                ) from error
            for item in found:
                if item.id in choices or item.id in passages:
                    raise DataError(f"{SETTING}: each task must be named once, but {task.task_name} is twice")
                if isinstance(item, Choice):
                    choices[item.id] = item
                else:
                    passages[item.id] = item
    return tuple(choices.values()), tuple(passages.values())


@cache
def _manager(has_own: bool) -> Any:
    """What finds tasks; with lm-eval's own, it reads 15,000 files first."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise DataError(
            f"{SETTING}: tasks of lm-eval need the package, but it is not installed: pip install 'sweeper[lm-eval]'"
        ) from None
    return TaskManager(include_defaults=has_own)


def _tasks(manager: Any, name: str) -> list[Any]:
    """The tasks that a name stands for: one, or those of a group."""
    file, is_file = Path(name).expanduser(), _is_file(name)
    if is_file and not file.is_file():
        raise DataError(f"{SETTING}: must be names of lm-eval's tasks or YAML files, but there is no file {name}")
    if not is_file and name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise DataError(f"{SETTING}: lm-eval has no task {name!r}{hint} `lm-eval ls tasks` lists all")
    try:
        return list(manager.load([str(file) if is_file else name])["tasks"].values())
    except Exception as error:  # the library raises many kinds, for a dataset, a network, a template
        raise DataError(  # the error's own message may quote a row, on which a task is tried when it is loaded
            f"{SETTING}: the data of a task must be in the cache of Hugging Face's datasets or within reach, but "
            f"{name} could not be loaded: {type(error).__name__}"
        ) from error


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _of_task(task: Any) -> Iterator[Choice | Passage]:
    kind = task.OUTPUT_TYPE
    if kind not in (MULTIPLE_CHOICE, TEXT):
        raise DataError(
            f"{SETTING}: a task's output_type must be {MULTIPLE_CHOICE} or {TEXT}, but that of {task.task_name} is "
            f"{kind}"
        )
    if kind == MULTIPLE_CHOICE and getattr(task, "multiple_input", 1):
        raise DataError(
            f"{SETTING}: a question must have one text and several choices, but {task.task_name} has another form"
        )
    for number, row in enumerate(task.eval_docs):
        name = f"{task.task_name}:{number}"
        if kind == TEXT:
            yield Passage(str(task.construct_requests(row, "").args[0]), name)
        else:
            yield _choice(task, row, name)


def _choice(task: Any, row: Any, name: str) -> Choice:
    choices = task.doc_to_choice(row)
    # Those behind them, if any, are for metrics that are not read here.
    requests = task.construct_requests(row, task.fewshot_context(row, 0))[: len(choices)]
    answer = task.doc_to_target(row)
    if isinstance(answer, str):
        answer = choices.index(answer) if answer in choices else None
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"{SETTING}: each question must have one right choice, but that of {name} is {kind_of(answer)}")
    return Choice(requests[0].args[0], tuple(request.args[1] for request in requests), answer, name, is_whole=True)
