"""The task that both sides of the benchmark train on: the same rows, the same tokens, the same configurations."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.data import tickets
from sweeper.data.example import Example
from sweeper.data.prompt import Renderer, renderer
from sweeper.data.rows import of as rows_of
from sweeper.errors import SweeperError
from sweeper.models.source import load_tokenizer, source_of
from sweeper.paths import Home

# In place of the chat template of SmolLM2, which alone is thirty tokens long.
SHORT_TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %} ->{% else %}<|im_end|>{% endif %}{% endfor %}"
)
RANKS, ALPHA_RATIOS, LEARNING_RATES = [4, 8, 16, 32, 64], [1.0, 2.0], (3.0e-4, 3.0e-2)
SPACE = [
    f"search.space.rank={RANKS}".replace(" ", ""),
    f"search.space.alpha_ratio={ALPHA_RATIOS}".replace(" ", ""),
    f"search.space.learning_rate={{low:{LEARNING_RATES[0]},high:{LEARNING_RATES[1]},log:true}}",
]
TEST_ROWS = 24  # which a launch scores three times, and the peer never; a few, since that is no part of the comparison


@dataclass(frozen=True)
class Load:
    """What a trial does.

    Attributes:
        rows: that its evaluation scores.
        mean_tokens: the longest rows are left out until the others have this mean; None: all rows.
        quality: steps and rows of a step of a longer training, for its accuracy.
        search_seeds: how many searches are compared, one after another and in a pack.
    """

    model: str
    batch_size: int
    rows: int
    quality: tuple[int, int]
    search_seeds: int
    mean_tokens: float | None = None
    template: str | None = None

    @property
    def is_short(self) -> bool:
        return self.template is not None


LOADS = {
    "tiny": Load("tiny", batch_size=4, rows=120, quality=(150, 16), search_seeds=3),
    # One row of 32 tokens a step: what packing is for, since the base is read once for all of them.
    "smollm2-135m": Load(
        "smollm2-135m",
        batch_size=1,
        rows=24,
        quality=(75, 4),
        search_seeds=1,
        mean_tokens=32.0,
        template=SHORT_TEMPLATE,
    ),
}


def configurations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Configurations of the search space, no two alike."""
    generator = random.Random(seed)
    low, high = LEARNING_RATES
    return [
        {
            "rank": generator.choice(RANKS),
            "alpha_ratio": generator.choice(ALPHA_RATIOS),
            "learning_rate": float(f"{low * (high / low) ** generator.random():.4g}"),
        }
        for _ in range(count)
    ]


@dataclass(frozen=True)
class Prepared:
    """A task in a folder: its splits for sweeper, its tokens for the peer.

    Attributes:
        home: the store of the launches, in which the base has been converted where it needs that.
    """

    load: Load
    folder: Path
    home: Home
    steps: int
    dtype: str

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens.jsonl"

    @property
    def params(self) -> Path:
        return self.folder / "params.json"

    @property
    def overrides(self) -> list[str]:
        """What a launch of the task is composed from, apart from its search."""
        short = []
        if self.load.is_short:
            short = [f"prompt.chat_template={self.folder / 'template.jinja'}", "data.allow=[template-missing]"]
        return [
            "study=demo",
            f"model={self.load.model}",
            f"model.dtype={self.dtype}",
            "data=files",
            f"data.path={self.data}",
            f"train.batch_size={self.load.batch_size}",
            f"train.examples={self.steps * self.load.batch_size}",
            "evaluation.count=1",
            "evaluation.rows=null",
            "retention.choices=null",
            "retention.passages=null",
            "confirmation.top=0",
            "pruner=none",
            "tracking.report=false",
            "engine.threads=1",
            *SPACE,
            *short,
        ]

    @cached_property
    def config(self) -> Config:
        return composed(*self.overrides)

    @cached_property
    def rendered(self) -> Renderer:
        found = renderer(self.config, self.tokenizer, rows_of(self.config).labels)
        assert isinstance(found, Renderer)
        return found

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.config.model, self.home)

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def base_folder(self) -> str:
        return source_of(self.config.model, self.home)

    def examples(self) -> list[Example]:
        return self.rendered.examples(rows_of(self.config).train)

    def described(self) -> dict[str, Any]:
        """What a trial is, for the results."""
        lengths = [len(example) for example in self.examples()]
        return {
            "model": self.load.model,
            "dtype": self.dtype,
            "steps": self.steps,
            "batch_size": self.load.batch_size,
            "train_rows": len(lengths),
            "row_tokens": {"mean": statistics.fmean(lengths), "least": min(lengths), "most": max(lengths)},
            "tokens_per_step": statistics.fmean(lengths) * self.load.batch_size,
            "evaluation_rows": len(rows_of(self.config).validation),
            "test_rows": len(rows_of(self.config).test),
            "prompt": "rows as they are, an arrow behind each" if self.load.is_short else "the base's chat template",
        }


def composed(*overrides: str) -> Config:
    configs: list[Config] = []
    compose.main(list(overrides), configs.append)
    return configs[0]


def prepare(load: Load, folder: Path, home: Home, *, steps: int, rows: int, trials: int, dtype: str) -> Prepared:
    """Writes the task, and converts the base where it needs that.

    Args:
        rows: that an evaluation scores.
        trials: fixed configurations.

    Raises:
        SweeperError: if the base is not here.
    """
    made = Prepared(load, folder, home, steps, dtype)
    home.create()
    made.data.mkdir(parents=True, exist_ok=True)
    if load.template is not None:
        (folder / "template.jinja").write_text(load.template, encoding="utf-8")
    splits = tickets.splits()
    for split in ("train", "validation", "test"):
        _write(made.data / f"{split}.jsonl", splits[split])
    if load.mean_tokens is not None:  # renders all rows first, to know how long they are
        whole = Prepared(load, folder, home, steps, dtype)
        splits = {split: _shortest(whole, kept, load.mean_tokens) for split, kept in splits.items()}
    for split, few in (("train", splits["train"]), ("validation", splits["validation"][:rows])):
        _write(made.data / f"{split}.jsonl", few)
    _write(made.data / "test.jsonl", splits["test"][:TEST_ROWS])
    data = rows_of(made.config)
    lines = [
        {
            "split": split,
            "prompt": list(made.rendered.prompt_tokens(row.text, row.columns)),
            "answer": list(made.rendered.answer_tokens(row.label)),
        }
        for split in ("train", "validation")
        for row in getattr(data, split)
    ]
    made.tokens.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    made.params.write_text(json.dumps(configurations(trials)), encoding="utf-8")
    return made


def is_here(load: Load, home: Home) -> str | None:
    """None where the base can be loaded; else why not."""
    try:
        source_of(composed("study=demo", f"model={load.model}").model, home)
        load_tokenizer(composed("study=demo", f"model={load.model}").model, home)
    except SweeperError as error:
        return str(error)
    return None


def _shortest(task: Prepared, rows: Sequence[dict[str, str]], mean_tokens: float) -> list[dict[str, str]]:
    """The rows, in their order, without the longest, so that the others are `mean_tokens` long in the mean."""
    lengths = [
        len(task.rendered.prompt_tokens(row["text"])) + len(task.rendered.answer_tokens(row["label"])) for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda index: lengths[index])
    while len(order) > 1 and statistics.fmean(lengths[index] for index in order) > mean_tokens:
        order.pop()
    return [rows[index] for index in sorted(order)]


def _write(file: Path, rows: Sequence[dict[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
