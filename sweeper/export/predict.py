"""Labels texts with an exported adapter, the way that it was scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sweeper.config.schema import ModelSection, PromptSection
from sweeper.data.prompt import Renderer
from sweeper.engine import adapter
from sweeper.engine.pack import Pack, Slot
from sweeper.errors import DataError, ExportError
from sweeper.export.export import MANIFEST
from sweeper.models import base
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.tasks.classification import LabelTrie, predict
from sweeper.trial import Rhythm, TrialParams

CHUNK_TOKENS = 4096


@dataclass
class Predictor:
    """A base with one adapter, ready to label."""

    pack: Pack
    rendered: Renderer
    trie: LabelTrie
    text_column: str

    @classmethod
    def load(cls, folder: Path, home: Home) -> Predictor:
        """Loads an exported folder and its base.

        Raises:
            ExportError: if the folder is not an export.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ExportError(
                f"an exported folder has a readable {MANIFEST}, but {folder} has not ({error}); "
                "write one with `sweeper export STUDY --to DIR`"
            ) from None
        try:
            section = ModelSection.model_validate(manifest["model"])
            params = TrialParams.model_validate(manifest["lora"])
            prompt = PromptSection.model_validate(manifest["prompt"])
            labels, text_column = manifest["labels"], manifest["text_column"]
            changed = [name for name, sha256 in manifest["sha256"].items() if _sha256(folder / name) != sha256]
            if changed:
                raise ExportError(
                    f"the files of {folder} must be as they were exported, but changed: {', '.join(changed)}"
                )
            weights = adapter.read(folder, params)
        except (KeyError, ValueError, OSError, SafetensorError) as error:
            raise ExportError(f"{folder} is not a whole export ({error}); export it again") from error
        tokenizer: Any = base.load_tokenizer(section, home)
        rendered = Renderer(tokenizer, prompt, labels)
        model = base.load_base(section, home, base.pick_device("auto"))
        pack = Pack(model, linear_names(model), [], pad=tokenizer.pad_token_id, chunk_tokens=CHUNK_TOKENS)
        never_trained = Rhythm(interval_examples=1, evaluations=1, batch_size=1)
        pack.admit(Slot(0, params, never_trained, seed=0), weights)
        trie = LabelTrie({label: rendered.answer_tokens(label) for label in labels})
        return cls(pack, rendered, trie, text_column)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The label of each row: of its text column, and of what else `prompt.template` reads."""
        prompts = [self.rendered.prompt_tokens(row[self.text_column], row) for row in rows]
        [labels] = predict(self.pack, [0], prompts, self.trie)
        return labels


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_jsonl(lines: Iterable[bytes], column: str) -> list[dict[str, Any]]:
    """Rows of standard input.

    Raises:
        DataError: naming the line that is not an object with the text column.
    """
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8
            raise DataError(f"standard input, line {number}: must be one JSON object, but {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            raise DataError(f"standard input, line {number}: must have the text field `{column}`, but is {line[:80]!r}")
        rows.append(row)
    return rows
