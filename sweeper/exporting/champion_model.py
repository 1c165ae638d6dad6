"""An exported adapter as a model of MLflow's `pyfunc`: this file is its code, beside `exported_answers.py`, which is
`fresh.py`.

It is loaded where sweeper need not be: with mlflow, transformers, peft and bitsandbytes. A row is a dictionary or a
line of a data frame with the columns that the study's rows had, or a text alone, which stands for the first of them.
What comes back is a `prediction` and its `probability`. Texts are never cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Champion(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Labels or answers rows as the study did."""

    def load_context(self, context: Any) -> None:
        from exported_answers import Loaded, Source  # type: ignore[import-not-found]

        folder = Path(context.artifacts["export"])
        self.manifest: dict[str, Any] = json.loads((folder / "sweeper.json").read_text(encoding="utf-8"))
        model, answer = self.manifest["model"], self.manifest["answer"]
        source = Source(
            folder=str(folder),
            quant=model["quant"],
            dtype=self.manifest["dtype"],
            trust_remote_code=model["trust_remote_code"],
        )
        self.loaded = Loaded(source, answer["end"], answer["lead"])
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        self.template = environment.from_string(self.manifest["prompt"]["template"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        prompts = [self.loaded.prompt(self.messages(row)) for row in self._rows(model_input)]
        if labels := self.manifest["labels"]:
            answers = self.loaded.choose(prompts, labels)
        else:
            answers = self.loaded.write(prompts, self.manifest["task"]["max_new_tokens"])
        return pd.DataFrame(answers, columns=["prediction", "probability"])

    def messages(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        """What the model is asked of a row."""
        prompt, columns = self.manifest["prompt"], self.manifest["columns"]
        messages = [{"role": "system", "content": prompt["system"]}] if prompt["system"] else []
        if columns["messages"] is not None:
            given = row[columns["messages"]]
            if isinstance(given, str) and given.lstrip().startswith("["):
                given = json.loads(given)
            if isinstance(given, str):
                return [*messages, {"role": "user", "content": given}]
            turns = [{"role": turn["role"], "content": turn["content"]} for turn in given]
            return messages + (turns[:-1] if turns[-1]["role"] == "assistant" else turns)
        if columns["question"] is not None and columns["context"] is not None:
            text = f"{row[columns['context']]}\n\n{row[columns['question']]}"
        else:
            text = row[self._column]
        known = {**row, "text": text, "labels": self.manifest["labels"], "row": {**row, "text": row.get("text", text)}}
        return [*messages, {"role": "user", "content": self.template.render(known)}]

    @property
    def _column(self) -> str:
        """What a text that is given alone stands for."""
        columns = self.manifest["columns"]
        names = ("text", "prompt", "question", "code", "messages")
        return str(next(columns[name] for name in names if columns[name] is not None))

    def _rows(self, given: Any) -> Iterator[Mapping[str, Any]]:
        rows = given.to_dict("records") if isinstance(given, pd.DataFrame) else given
        for row in [rows] if isinstance(rows, str | dict) else rows:
            yield {self._column: row} if isinstance(row, str) else row


mlflow.models.set_model(Champion())
