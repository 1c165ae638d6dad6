"""Tasks with code of the user's: a class that scores what was written, a function that scores besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.custom.code import CURE
from sweeper.custom.own import OwnTask, Scorer
from sweeper.data.prompt import Conversations
from sweeper.data.row import Row
from sweeper.engine.pack import Pack
from sweeper.errors import CustomCodeError
from sweeper.tasks.generation import Generation
from sweeper.trial import Prediction

if TYPE_CHECKING:
    from sweeper.tasks.task import Scores, Task


@dataclass(frozen=True)
class NamedScores:
    """Numbers by their names, each with its standard error where the user's code gives one."""

    values: Mapping[str, float]

    def as_dict(self) -> dict[str, float]:
        return dict(self.values)


class Custom(Generation):
    """Writes answers, which the user's class scores.

    Args:
        rendered: what renders the rows; None: it only scores.
    """

    def __init__(self, rendered: Conversations | None, own: OwnTask) -> None:
        if rendered is None:
            super().__init__(str, 0, 0)
        else:
            super().__init__(rendered.answer, rendered.max_new_tokens, rendered.chat.end)
        self._own = own

    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Scores:
        return NamedScores(self._own.score([row.columns for row in rows], predictions))


class WithMetric:
    """Any task, with the numbers of the user's function beside its own.

    Args:
        label: the column of the rows' labels, which predictions are compared with as text.
    """

    def __init__(self, task: Task, metric: Scorer, label: str | None) -> None:
        self._task, self._metric, self._label = task, metric, label

    @property
    def labels(self) -> list[str]:
        return self._task.labels

    @property
    def room_tokens(self) -> int | None:
        return self._task.room_tokens

    def predict(
        self, pack: Pack, slots: Sequence[int], prompts: Sequence[tuple[int, ...]], with_adapters: bool = True
    ) -> list[list[Prediction]]:
        return self._task.predict(pack, slots, prompts, with_adapters)

    def judged(self, row: Row, prediction: str) -> dict[str, Any]:
        return self._task.judged(row, prediction)

    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Scores:
        """The task's scores and the function's.

        Raises:
            CustomCodeError: if the function returns a name that the task has, beside what else it raises for.
        """
        scores, added = self._task.score(rows, predictions).as_dict(), self.score_own(rows, predictions).as_dict()
        if twice := sorted({*scores} & {*added}):
            raise CustomCodeError(
                f"{self._metric.what} must return other names than the task has, but returned {', '.join(twice)}\n"
                f"{CURE}"
            )
        return NamedScores({**scores, **added})

    def score_own(self, rows: Sequence[Row], predictions: Sequence[str]) -> Scores:
        """The function's scores alone."""
        known: list[dict[str, Any]] = [
            {**row.columns, **({self._label: row.label} if self._label is not None else {})} for row in rows
        ]
        return NamedScores(self._metric(known, predictions))
