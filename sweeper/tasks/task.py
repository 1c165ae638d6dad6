"""What a task is: how the rows of a study are predicted, and how predictions are scored.

| task | predicts | scores |
|---|---|---|
| classification | one of the labels, over the trie of their tokens | accuracy, macro-F1 |
| generation | a text, greedily | exact match, token F1 |
| comments | the same | BLEU, chrF, ROUGE-L |
| custom | the same | what the user's class returns |

The user's own metric comes beside the scores of any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sweeper.config.teaching import TaskSection
from sweeper.custom.own import OwnTask, Scorer
from sweeper.data.prompt import Conversations, Renderer
from sweeper.data.row import Row
from sweeper.engine.pack import Pack
from sweeper.tasks.classification import Classification
from sweeper.tasks.comments import Comments
from sweeper.tasks.custom import Custom, WithMetric
from sweeper.tasks.generation import Generation
from sweeper.trial import Prediction


class Scores(Protocol):
    """How predictions compare with the truth; our own metrics are between 0 and 1, higher is better."""

    def as_dict(self) -> dict[str, float]:
        """The metrics by their names, and the standard error of each that has one as `NAME_se`."""


class Task(Protocol):
    """One way to predict and to score."""

    @property
    def labels(self) -> list[str]:
        """What predictions are chosen from; none where they are written."""

    @property
    def room_tokens(self) -> int | None:
        """The most tokens behind a prompt in scoring; None: those of the longest answer."""

    def predict(
        self, pack: Pack, slots: Sequence[int], prompts: Sequence[tuple[int, ...]], with_adapters: bool = True
    ) -> list[list[Prediction]]:
        """For each of `slots`, a prediction for each prompt; all slots share each forward."""

    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Scores:
        """Compares predictions with what is true of their rows."""

    def judged(self, row: Row, prediction: str) -> dict[str, Any]:
        """What is kept of a row beside its prediction, without its text: `is_correct`, and `truth` or `token_f1`."""


_WRITTEN = {"generation": Generation, "comments": Comments}  # tasks whose answers are written


def task_of(
    section: TaskSection,
    rendered: Renderer | Conversations,
    own: OwnTask | None = None,
    metric: Scorer | None = None,
    label: str | None = None,
) -> Task:
    """The task of a study.

    Args:
        rendered: what renders its rows.
        own: the user's task.
        metric: the user's metric.
        label: the column of the rows' labels.
    """
    task: Task
    if isinstance(rendered, Renderer):
        task = Classification({label: rendered.answer_tokens(label) for label in rendered.labels})
    elif own is not None:
        task = Custom(rendered, own)
    else:
        task = _WRITTEN[section.name](rendered.answer, rendered.max_new_tokens, rendered.chat.end)
    return WithMetric(task, metric, label) if metric is not None else task


def scoring_task(
    section: TaskSection, own: OwnTask | None = None, metric: Scorer | None = None, label: str | None = None
) -> Task:
    """The same task for whoever has predictions already: it scores them, predicts nothing, and needs no tokenizer."""
    task: Task
    if section.name == "classification":
        task = Classification({})
    elif own is not None:
        task = Custom(None, own)
    else:
        task = _WRITTEN[section.name](str, 0, 0)
    return WithMetric(task, metric, label) if metric is not None else task
