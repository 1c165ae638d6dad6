"""Labels or answers with an exported folder, the way that it was scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sweeper.config.teaching import ColumnsSection, CustomSection, WrittenSection
from sweeper.custom import own
from sweeper.custom.own import OwnTask
from sweeper.data import kinds, long
from sweeper.data.prompt import Conversations, Renderer
from sweeper.data.row import Row
from sweeper.engine import adapter
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot
from sweeper.errors import DataError, ExportError, PromptError
from sweeper.exporting.folder import Exported, not_whole
from sweeper.exporting.manifest import CODE
from sweeper.models import base
from sweeper.models.source import load_tokenizer
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.quoting import name_of
from sweeper.tasks.classification import Classification
from sweeper.tasks.task import Task, task_of
from sweeper.trial import Rhythm

CHUNK_TOKENS = 4096
Prompt = tuple[int, ...]
_ASKING = ("text", "prompt", "question", "context", "code", "messages")  # the keys of `data.columns` that ask
_SHOWN = 10  # names of columns that a message lists


@dataclass(frozen=True)
class Answer:
    """What was answered to one row.

    Attributes:
        probability: that the model gave it: of a label among all labels, at each branch of their tokens; of a written
            answer the geometric mean over its tokens; None where the task knows none.
        by_label: the probability of every label, if it was asked for.
    """

    text: str
    probability: float | None
    by_label: Mapping[str, float] | None = None


@dataclass
class Predictor:
    """A base with one adapter, or a model that has it merged in, ready to label or to answer.

    Attributes:
        exported: the folder that it is from.
        text_column: what a text that is given alone stands for; None where it stands for nothing.
    """

    exported: Exported
    pack: Pack
    rendered: Renderer | Conversations
    task: Task
    own: OwnTask | None = None  # the task that the study brought, which reads rows by itself

    @property
    def columns(self) -> ColumnsSection:
        return self.exported.columns

    @property
    def text_column(self) -> str | None:
        return self._asking[0] if len(self._asking) == 1 else None

    @cached_property
    def _asking(self) -> list[str]:
        """The columns that each row must have; none where the study's own task reads them."""
        return [column for key, column in self.columns.named().items() if key in _ASKING and self.own is None]

    @classmethod
    def load(cls, folder: Path, home: Home, trusts_code: bool = False, weighs: bool = False) -> Predictor:
        """Loads an exported folder, and its base where it has an adapter.

        Args:
            trusts_code: whether code that came with the export may run.
            weighs: whether the probabilities of all labels will be asked for.

        Raises:
            ExportError: if the folder is not an export, has code that is not trusted, or has no labels to weigh.
            ModelError: if its base is not there, or is another one.
        """
        exported = Exported.read(folder, trusts_code)
        if weighs and isinstance(exported.task, WrittenSection):
            raise ExportError(
                f"--probabilities: needs a task that chooses among labels, but that of {folder} writes answers; "
                "`probability` has that of each"
            )
        brought = _own_task(exported, trusts_code)
        section = exported.base()
        tokenizer: Any = load_tokenizer(section, home)
        rendered: Renderer | Conversations = Renderer(tokenizer, exported.prompt, exported.labels)
        if isinstance(exported.task, WrittenSection):
            rendered = Conversations(tokenizer, exported.prompt, "last", exported.task.max_new_tokens)
        device = base.pick_device("auto")
        model = base.load_base(section, home, device)
        if not exported.has_adapter:
            base.compute_in(model, base.compute_dtype(section, device))
        pack = _pack(exported, model, tokenizer.pad_token_id)
        return cls(exported, pack, rendered, task_of(exported.task, rendered, brought), brought)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The label or the answer of each row; raises as `prompts` does."""
        return [answer.text for answer in self.answer(self.prompts(rows))]

    def answer(self, prompts: Sequence[Prompt], weighs: bool = False) -> list[Answer]:
        """What is answered to each prompt.

        Args:
            weighs: whether with the probability of every label, where there are labels.
        """
        has_adapter = self.exported.has_adapter
        if weighs and isinstance(self.task, Classification):
            weighed = self.task.weigh(self.pack, 0, prompts, has_adapter)
            return [Answer(label, probability, by_label) for (label, probability), by_label in weighed]
        [predicted] = self.task.predict(self.pack, [0], prompts, has_adapter)
        return [Answer(text, probability) for text, probability in predicted]

    def prompts(self, rows: Sequence[Mapping[str, Any]], places: Sequence[str] | None = None) -> list[Prompt]:
        """What each row asks, as tokens: of what its kind asks with, and of what else `prompt.template` reads.

        Args:
            places: what each row is called; None: it is counted from 1.

        Raises:
            DataError, PromptError: naming the row, and what is wrong with it.
        """
        prompts = []
        for place, row in zip(places or [f"row {number}" for number in range(1, len(rows) + 1)], rows, strict=True):
            try:
                prompts.append(self._prompt(row))
            except ValueError as error:
                raise DataError(f"{place}: {error}") from None
            except PromptError as error:
                raise PromptError(f"{place}: {error}") from None
        return prompts

    def _prompt(self, row: Mapping[str, Any]) -> Prompt:
        if missing := [column for column in self._asking if column not in row]:
            names = ", ".join(map(name_of, list(row)[:_SHOWN])) or "none"
            raise ValueError(f"must have the column `{missing[0]}`, but has {names}{', …' * (len(row) > _SHOWN)}")
        if self.own is not None:
            asked = kinds.own_asking(self.own, row)
        elif self.columns.messages is not None:
            asked = Row("", "", "", row, messages=kinds.conversation(self.columns, row))
        else:
            asked = kinds.asking(self.columns, row)
        if self.exported.long.startswith("cut"):
            asked = long.shorten(self.rendered, asked, self.exported.long, is_scored=True)
        if isinstance(self.rendered, Renderer):
            return self.rendered.prompt_tokens(asked.text, asked.columns)
        return self.rendered.prompt_tokens(asked)


def _own_task(exported: Exported, trusts_code: bool) -> OwnTask | None:
    """The task that an export brings, if it does; only a person can say that its code may run."""
    task, code = exported.task, exported.folder / CODE
    if not isinstance(task, CustomSection):
        return None
    if not trusts_code:
        raise ExportError(
            f"code that comes with an export runs only where that is said, but {task.target} of {code} is "
            "needed to write prompts; look at it, and say --trust-code"
        )
    return own.load_task(task, code)


def _pack(exported: Exported, model: Any, pad: int) -> Pack:
    """The model with its adapter in a slot; without one where that is merged."""
    if not exported.has_adapter:
        return Pack(model, [], [], pad=pad, chunk_tokens=CHUNK_TOKENS)
    try:
        weights = adapter.read(exported.folder, exported.params)
    except (KeyError, ValueError, TypeError, OSError, SafetensorError) as error:
        raise not_whole(exported.folder, error) from error
    pack = Pack(model, linear_names(model), [], pad=pad, chunk_tokens=CHUNK_TOKENS)
    never_trained = Rhythm(interval_examples=1, evaluations=1, batch_size=1)
    pack.admit(Slot(0, exported.params, never_trained, seed=0), weights)
    pack.settle()
    return pack
