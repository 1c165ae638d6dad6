"""What a task is: how the rows of a study are predicted, and how predictions are scored.

| task | predicts | scores |
|---|---|---|
| classification | one of the labels, over the trie of their tokens | accuracy, macro-F1 |
| generation | a text, greedily | exact match, token F1 |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sweeper.data.prompt import Conversations, Renderer
from sweeper.engine.pack import Pack
from sweeper.tasks.classification import Classification
from sweeper.tasks.generation import Generation
from sweeper.trial import Prediction


class Scores(Protocol):
    """How predictions compare with the truth: each metric between 0 and 1, higher is better."""

    def as_dict(self) -> dict[str, float]:
        """The metrics by their names, and the standard error of each as `NAME_se`."""


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

    def score(self, truth: Sequence[Any], predictions: Sequence[str]) -> Scores:
        """Compares predictions with the rows' `truth`."""

    def judged(self, truth: Any, prediction: str) -> dict[str, Any]:
        """What is kept of a row beside its prediction, without its text: `is_correct`, and `truth` or `token_f1`."""


def task_of(rendered: Renderer | Conversations) -> Task:
    """The task that goes with what renders its rows."""
    if isinstance(rendered, Conversations):
        return Generation(rendered.answer, rendered.max_new_tokens, rendered.chat.end)
    return Classification({label: rendered.answer_tokens(label) for label in rendered.labels})
