"""The folder of a drafted study: a configuration whose every line says what it does, and a README."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.data import files
from sweeper.draft.columns import Column, Guess, columns_of, described, guess
from sweeper.draft.numbers import ANY_TOKENS, GUESSED_ANSWER_TOKENS, Numbers, counted, measured
from sweeper.draft.split_files import SplitFiles, split_files
from sweeper.errors import ConfigError, DataError
from sweeper.paths import Home, is_valid_name, write_atomically

SMALL = "tiny"  # the bundled base, which learns at other rates than a large one
_FEW_LABELS = 20  # so many can be listed in a prompt
# What a study goes by where nothing speaks for another, and what else there is.
_METRICS = {
    "classification": ("accuracy", "accuracy, or macro_f1, in which each label counts the same"),
    "generation": ("token_f1", "token_f1, or exact_match, both as SQuAD's"),
    "comments": (
        "rouge_l",
        "rouge_l (words in order), chrf (runs of letters, for any language) or bleu (runs of words)",
    ),
}
_RATES = {True: ("3.0e-4", "1.0e-2"), False: ("1.0e-4", "2.0e-3")}
_UNCOUNTED = Numbers({"train": 1000, "validation": 0, "test": 0}, {}, None, ANY_TOKENS, GUESSED_ANSWER_TOKENS, None)


@dataclass(frozen=True)
class Draft:
    """A study that has been thought up for rows.

    Attributes:
        model: an option of conf/model, or a folder or Hub id.
        columns: all that the rows have.
        folder: where it is to lie.
    """

    name: str
    source: SplitFiles
    model: str
    columns: list[Column]
    guess: Guess
    folder: Path
    numbers: Numbers = _UNCOUNTED

    @property
    def config(self) -> str:
        """The text of its config.yaml."""
        return _rendered("config.yaml", self._words())

    @property
    def readme(self) -> str:
        """The text of its README.md; it has nothing of the rows but their columns' names."""
        return _rendered("README.md", self._words())

    @property
    def argument(self) -> str:
        """The folder as it is given to `study=`, which tells a folder from a name by its slash."""
        return shlex.quote(str(self.folder) if "/" in str(self.folder) else f"./{self.folder}")

    def _words(self) -> dict[str, Any]:
        numbers, columns, splits = self.numbers, self.guess.columns, self.source.splits
        is_option = self.model in model_options()
        is_classification = self.guess.task == "classification"
        where = self.source.path.name
        metric, metric_words = _METRICS[self.guess.task]
        return {
            "name": self.name,
            "folder": self.argument,
            "title": self._title(),
            "description": self._title(),
            "task": self.guess.task,
            "task_words": "labels are chosen, never written" if is_classification else "answers are written, greedily",
            "why": self.guess.why,
            "model_option": self.model if is_option else "hub",
            "model_words": _model_words(self.model),
            "model_path": None if is_option else self.model,
            "model_name": name_of(Path(self.model)),
            "path": str(self.source.path),
            "splits": splits,
            "origins": {
                split: f"{where}, {share:.0%} of its rows"
                if isinstance(share, float)
                else (where if self.source.path.is_file() else share)
                for split, share in splits.items()
            },
            "columns": columns,
            "all_columns": self.columns,
            "described": described,
            "used": {
                c.name: next((f"`{k}`" for k, name in columns.items() if name == c.name), "–") for c in self.columns
            },
            "text_column": next(iter(columns.values())),
            "template": self._template(),
            "group": self.guess.group,
            "labels": numbers.labels if is_classification else {},
            "commonest_share": max(numbers.labels.values(), default=0) / max(1, sum(numbers.labels.values())),
            "rarest": min(numbers.labels.values(), default=0),
            "long": ("drop" if "messages" in columns else "cut_text_tail") if numbers.is_cut else "block",
            "length_words": self._length_words(),
            "max_tokens": numbers.max_tokens,
            "answer_tokens": numbers.answer_tokens,
            "answer_words": self._answer_words(),
            "metric": "macro_f1" if numbers.is_uneven else metric,
            "metric_words": metric_words,
            "counts": numbers.counts,
            "train_rows": numbers.counts["train"],
            "validation_rows": numbers.counts["validation"],
            "epochs": numbers.epochs,
            "batch_size": numbers.batch_size,
            "evaluations": numbers.evaluations,
            "evaluation_rows": numbers.evaluation_rows,
            "ranks": numbers.ranks,
            "rates": _RATES[self.model == SMALL],
        }

    def _title(self) -> str:
        columns = [*self.guess.columns.values()]
        asked, answered = ", ".join(columns[:-1]), columns[-1]
        return " ".join(f"{self.source.path.name}: {f'{asked} → {answered}' if asked else answered}".split())

    def _template(self) -> str:
        text = "{{ text }}"
        labels = self.numbers.labels
        if self.guess.task == "classification" and self.model != SMALL and 0 < len(labels) <= _FEW_LABELS:
            return "Which of these fits: {{ labels | join(', ') }}?\n\n" + text
        if self.guess.extra is not None:
            extra = f"row[{json.dumps(self.guess.extra, ensure_ascii=False)}]"
            return f"{text}{{% if {extra} %}}\n\n{{{{ {extra} }}}}{{% endif %}}"
        return text

    def _length_words(self) -> str:
        numbers = self.numbers
        if numbers.longest_tokens is None:
            return "prompt and answer; the rows could not be measured"
        return f"prompt and answer; the longest row takes {numbers.longest_tokens:,}"

    def _answer_words(self) -> str:
        longest = self.numbers.longest_answer_tokens
        if longest is None:
            return "a guess: the rows could not be measured"
        if longest > self.numbers.answer_tokens:
            return f"the longest reference answer takes {longest:,}"
        return "the longest reference answer fits"


def draft(
    data: Path,
    task: str | None,
    chosen: Mapping[str, str],
    model: str,
    name: str | None,
    folder: Path | None,
    home: Home,
) -> Draft:
    """Thinks a study up for a file, or a folder with a file for each split.

    Args:
        chosen: columns that are given, by their key of `data.columns`.
        folder: where the study is to lie; None: studies/NAME.

    Raises:
        DataError: if the rows cannot be read, or make no task.
        ConfigError: if a name is not usable.
    """
    source = split_files(data)
    name = name_of(source.path) if name is None else name
    if not is_valid_name(name):
        raise ConfigError(f"--name: must have 1 to 64 letters, digits, dots, dashes or underscores, but is {name!r}")
    rows = [row for _, row in files.read_file(source.files["train"], source.files["train"].name)]
    if not rows:
        raise DataError(f"there must be rows to train on, but {source.files['train']} has none")
    columns = columns_of(rows)
    made = Draft(
        name=name,
        source=source,
        model=model,
        columns=columns,
        guess=guess(columns, task, chosen),
        folder=(folder or Path("studies") / name).expanduser(),
    )
    made = replace(made, numbers=counted(composed(made)))
    return replace(made, numbers=measured(made.numbers, composed(made), home))


def composed(made: Draft, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a draft, as `sweeper launch` would compose it.

    Raises:
        ConfigError: if an override is not valid.
    """
    configs: list[Config] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / made.name
        folder.mkdir()
        write_atomically(folder / "config.yaml", made.config)
        compose.main([f"study={folder}", *overrides], configs.append)
    return configs[0]


def write(made: Draft, is_forced: bool) -> None:
    """Writes the study's folder.

    Raises:
        ConfigError: if one of its files is there already, or the folder cannot be written.
    """
    texts = {made.folder / "config.yaml": made.config, made.folder / "README.md": made.readme}
    there = [str(file) for file in texts if file.exists()]
    if there and not is_forced:
        raise ConfigError(
            f"--to: must be a folder with neither config.yaml nor README.md, but there is {' and '.join(there)}; "
            f"--force writes over {'both' if len(there) > 1 else 'it'}"
        )
    try:
        made.folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            write_atomically(file, text)
    except OSError as error:
        raise ConfigError(f"--to: must be a folder that can be written, but {made.folder}: {error.strerror}") from None


def name_of(path: Path) -> str:
    """A name for a study, from that of a file or folder."""
    name = unicodedata.normalize("NFKD", path.stem if path.is_file() else path.name)
    letters = "".join(letter for letter in name if not unicodedata.combining(letter))  # ü is u, and no gap
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip("-._")
    return words[:64] or "study"


def model_options() -> list[str]:
    """The options of conf/model that need no path."""
    names = [file.name.removesuffix(".yaml") for file in resources.files("sweeper.conf").joinpath("model").iterdir()]
    return sorted(set(names) - {"hub"})


def _model_words(model: str) -> str:
    if model == SMALL:
        return "2M parameters, to try everything out; then one of conf/model, such as qwen2.5-1.5b"
    return "from the Hub, or its cache" if model in model_options() else "any causal model of transformers"


def _yaml(value: Any) -> str:
    """A value as JSON, which YAML is too, and without what OmegaConf would put something else for."""
    return json.dumps(value, ensure_ascii=False).replace("${", "\\\\${")


def _rendered(file: str, words: Mapping[str, Any]) -> str:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["yaml"] = _yaml
    environment.filters["cell"] = lambda value: " ".join(str(value).split()).replace("|", "\\|")
    source = resources.files("sweeper.draft").joinpath(f"{file}.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(words)
