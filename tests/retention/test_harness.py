"""Tasks of lm-eval as items: the real package, with data on this machine."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.errors import DataError
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home
from sweeper.retention import harness
from sweeper.retention.items import Choice, Passage
from sweeper.retention.scoring import Encoded
from sweeper.retention.suite import load

needs_lm_eval = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ROWS = [
    {"q": "What do cows eat?", "options": ["grass", "stones", "cars"], "right": 0},
    {"q": "What do fish breathe with?", "options": ["ears", "gills", "hair"], "right": 1},
]
QUESTIONS = """
task: farm
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
description: "Animals.\\n"
doc_to_text: "Q: {{{{q}}}}\\nA:"
doc_to_choice: "{{{{options}}}}"
doc_to_target: right
metric_list: [{{metric: acc}}]
"""
TEXTS = """
task: prose
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
validation_split: validation
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{q}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def written(folder: Path, text: str, name: str = "task", rows: Any = ROWS) -> str:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / f"{name}.yaml"
    file.write_text(text.format(data=data))
    return str(file)


@needs_lm_eval
def test_questions_are_asked_as_lm_eval_asks_them(installed: None, tmp_path: Path) -> None:
    choices, passages = harness.items([written(tmp_path, QUESTIONS)])
    assert passages == ()
    assert choices == (
        Choice("Animals.\nQ: What do cows eat?\nA:", (" grass", " stones", " cars"), 0, "farm:0", is_whole=True),
        Choice("Animals.\nQ: What do fish breathe with?\nA:", (" ears", " gills", " hair"), 1, "farm:1", is_whole=True),
    )


@needs_lm_eval
def test_texts_are_passages_and_both_go_into_the_suite(
    installed: None, composed_once: Callable[..., Config], home: Home, tmp_path: Path
) -> None:
    files = [written(tmp_path, QUESTIONS), written(tmp_path, TEXTS, "prose")]
    config = composed_once("study=demo", "retention.choices=null", "retention.passages=null")
    section = config.retention.model_copy(update={"lm_eval": files})
    assert section.is_on
    suite = load(section)
    assert suite.passages == (Passage("What do cows eat?", "prose:0"), Passage("What do fish breathe with?", "prose:1"))
    tokenizer = load_tokenizer(config.model, home)
    encoded = Encoded.of(suite, tokenizer, 128)
    read = encoded.questions[0].choices[0]
    assert tokenizer.decode(read.tokens) == "Animals.\nQ: What do cows eat?\nA: grass"
    assert tokenizer.decode(read.tokens[read.start :]).strip() == "grass"
    assert read.characters == len("grass")


@needs_lm_eval
@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [
        (
            TEXTS.replace("loglikelihood_rolling", "generate_until").replace("word_perplexity", "exact_match"),
            ROWS,
            "output_type must be multiple_choice or loglikelihood_rolling, but that of prose is generate_until",
        ),
        (QUESTIONS, [{**row, "right": 7} for row in ROWS], r"could not be loaded: IndexError$"),
        (QUESTIONS, [ROWS[0], {**ROWS[1], "right": 3}], "one right choice, but that of farm:1 is a number"),
        (QUESTIONS.replace("{data}", "/none.jsonl"), ROWS, "could not be loaded: FileNotFoundError$"),
    ],
)
def test_what_is_no_item_is_refused(installed: None, tmp_path: Path, text: str, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        harness.items([written(tmp_path, text, rows=rows)])


@needs_lm_eval
@pytest.mark.skipif(
    os.environ.get("SWEEPER_TESTS") != "all", reason="lm-eval reads 15,000 files to find its tasks: SWEEPER_TESTS=all"
)
def test_a_name_that_is_not_known(installed: None) -> None:
    with pytest.raises(DataError, match=r"lm-eval has no task 'arc_eazy'; did you mean .*arc_easy.*\?"):
        harness.items(["arc_eazy"])


@needs_lm_eval
def test_files_that_are_not_there_and_those_that_are_named_twice(installed: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file nowhere\.yaml"):
        harness.items(["nowhere.yaml"])
    file = written(tmp_path, QUESTIONS)
    with pytest.raises(DataError, match="each task must be named once, but farm is twice"):
        harness.items([file, file])


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("lm_eval"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    harness._manager.cache_clear()
    with pytest.raises(DataError, match=r"not installed: pip install 'sweeper\[lm-eval\]'"):
        harness.items(["arc_easy"])
    assert harness.items([]) == ((), ())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ValueError("What do cows eat?"), "farm must make its items of its data, but raises ValueError$"),
        ("What do cows eat?", "but that of farm:0 is the value None$"),
        (["What do cows eat?"], "but that of farm:0 is a list of 1$"),
    ],
)
def test_nothing_of_a_row_is_said(answer: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for lm-eval's class, so that this needs no lm-eval."""

    class Task:
        OUTPUT_TYPE, multiple_input, task_name, eval_docs = harness.MULTIPLE_CHOICE, 0, "farm", ROWS

        def doc_to_choice(self, row: dict[str, Any]) -> Any:
            return row["options"]

        def doc_to_target(self, row: dict[str, Any]) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        def fewshot_context(self, row: dict[str, Any], count: int) -> str:
            return ""

        def construct_requests(self, row: dict[str, Any], context: str) -> list[Any]:
            return []

    monkeypatch.setattr(harness, "_manager", lambda _: None)
    monkeypatch.setattr(harness, "_tasks", lambda *_: [Task()])
    with pytest.raises(DataError, match=message):
        harness.items(["farm.yaml"])
