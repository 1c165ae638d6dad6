"""Labels or answers with an exported adapter, the way that it was scored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError

from sweeper.config.schema import ModelSection
from sweeper.config.teaching import ColumnsSection, CustomSection, PromptSection, TaskSection, WrittenSection
from sweeper.custom import own
from sweeper.custom.own import OwnTask
from sweeper.data import kinds, long
from sweeper.data.prompt import Conversations, Renderer
from sweeper.data.row import Row
from sweeper.engine import adapter
from sweeper.engine.pack import Pack, Slot
from sweeper.errors import DataError, ExportError, PromptError
from sweeper.export.manifest import CODE, read_manifest
from sweeper.models import base, origin
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.quoting import kind_of
from sweeper.tasks.task import Task, task_of
from sweeper.trial import Rhythm, TrialParams

CHUNK_TOKENS = 4096


@dataclass
class Predictor:
    """A base with one adapter, ready to label or to answer.

    Attributes:
        text_column: what a text that is given alone stands for; None where it stands for nothing.
    """

    pack: Pack
    rendered: Renderer | Conversations
    task: Task
    columns: ColumnsSection
    long: str  # `data.long` of the study: a text that is too long is cut as it was there
    own: OwnTask | None = None  # the task that the study brought, which reads rows by itself

    @property
    def text_column(self) -> str | None:
        columns = self.columns
        if self.own is not None:
            return None
        return str(columns.text or columns.prompt or columns.question or columns.code or columns.messages)

    @classmethod
    def load(cls, folder: Path, home: Home, trusts_code: bool = False) -> Predictor:
        """Loads an exported folder and its base.

        Args:
            trusts_code: whether code that came with the export may run.

        Raises:
            ExportError: if the folder is not an export, or has code that is not trusted.
            ModelError: if its base is not there, or is another one.
        """
        manifest = read_manifest(folder)
        try:
            section = ModelSection.model_validate(manifest["model"])
            known = origin.Origin(**manifest["base"]) if manifest.get("base") else None
            params = TrialParams.model_validate({"replay": 0.0, **manifest["lora"]})  # older ones lack it
            prompt = PromptSection.model_validate(manifest["prompt"])
            task: Any = TypeAdapter(TaskSection).validate_python(manifest["task"])
            columns, labels = ColumnsSection.model_validate(manifest["columns"]), manifest["labels"]
            weights = adapter.read(folder, params)
        except (KeyError, ValueError, TypeError, OSError, SafetensorError) as error:
            raise ExportError(f"{folder} is not a whole export ({error}); export it again") from error
        brought = _own_task(folder, task, trusts_code)
        section = origin.pinned(section, known)
        tokenizer: Any = base.load_tokenizer(section, home)
        rendered: Renderer | Conversations = Renderer(tokenizer, prompt, labels)
        if isinstance(task, WrittenSection):
            rendered = Conversations(tokenizer, prompt, "last", task.max_new_tokens)
        model = base.load_base(section, home, base.pick_device("auto"))
        pack = Pack(model, linear_names(model), [], pad=tokenizer.pad_token_id, chunk_tokens=CHUNK_TOKENS)
        never_trained = Rhythm(interval_examples=1, evaluations=1, batch_size=1)
        pack.admit(Slot(0, params, never_trained, seed=0), weights)
        return cls(pack, rendered, task_of(task, rendered, brought), columns, str(manifest["long"]), brought)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The label or the answer of each row; raises as `prompts` does."""
        [predicted] = self.task.predict(self.pack, [0], self.prompts(rows))
        return [prediction.text for prediction in predicted]

    def prompts(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, ...]]:
        """What each row asks, as tokens: of what its kind asks with, and of what else `prompt.template` reads.

        Raises:
            DataError, PromptError: naming the row, counted from 1, and what is wrong with it.
        """
        prompts = []
        for number, row in enumerate(rows, start=1):
            try:
                prompts.append(self._prompt(row))
            except ValueError as error:
                raise DataError(f"row {number}: {error}") from None
            except PromptError as error:
                raise PromptError(f"row {number}: {error}") from None
        return prompts

    def _prompt(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        if self.own is not None:
            asked = kinds.own_asking(self.own, row)
        elif self.columns.messages is not None:
            asked = Row("", "", "", row, messages=kinds.conversation(self.columns, row))
        else:
            asked = kinds.asking(self.columns, row)
        if self.long.startswith("cut"):
            asked = long.shorten(self.rendered, asked, self.long, is_scored=True)
        if isinstance(self.rendered, Renderer):
            return self.rendered.prompt_tokens(asked.text, asked.columns)
        return self.rendered.prompt_tokens(asked)


def _own_task(folder: Path, task: Any, trusts_code: bool) -> OwnTask | None:
    """The task that an export brings, if it does; only a person can say that its code may run."""
    if not isinstance(task, CustomSection):
        return None
    if not trusts_code:
        raise ExportError(
            f"code that comes with an export runs only where that is said, but {task.target} of {folder / CODE} is "
            "needed to write prompts; look at it, and say --trust-code"
        )
    return own.load_task(task, folder / CODE)


def read_jsonl(lines: Iterable[bytes], column: str | None) -> list[dict[str, Any]]:
    """Rows of standard input.

    Args:
        column: that each must have; None: which they have is not known here.

    Raises:
        DataError: naming the line that is not an object with that column, a text or a list of messages.
    """
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8
            raise DataError(f"standard input, line {number}: must be one JSON object, but {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"standard input, line {number}: must be one JSON object, but is {kind_of(row)}")
        value = row.get(column) if column is not None else ""
        if not isinstance(value, str | list):
            raise DataError(
                f"standard input, line {number}: must have the text field `{column}`, but has {kind_of(value)}"
            )
        rows.append(row)
    return rows
