"""A study's own code: a class that is its task, a function that is its metric.

`sources` finds the modules of both and keeps a copy of them with the study, `code` imports them and calls into them,
`own` is the task and the metric as the other parts use them. This module has what the user writes against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any


class CustomTask(ABC):
    """What is asked and answered in a row, and how answers are scored; `task._target_` names a class derived from it.

    It is made once, with `task.arguments`. A row is what one line of the data has, under its own names.
    """

    @abstractmethod
    def prompt(self, row: Mapping[str, Any]) -> str | list[dict[str, str]]:
        """What is asked: a text, or messages (`role` and `content`) of which the last is the user's.

        When an exported adapter is used, rows have no answer: only what is asked may be read here.
        """

    @abstractmethod
    def answer(self, row: Mapping[str, Any]) -> str | list[str]:
        """The reference answer; of several, the first is trained on."""

    @abstractmethod
    def score(self, rows: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
        """Compares the written answers with their rows.

        Returns:
            Finite numbers, under the same names each time; one of them is `objective.metric`. With `NAME_se`, the
            standard error of `NAME`, what is within noise of the winner is told.
        """


__all__ = ["CustomTask"]
