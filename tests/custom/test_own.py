"""What a study's own metric and task must be, and what is said of those that are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.custom import own
from sweeper.data import rows
from sweeper.errors import CustomCodeError, DataError

Compose = Callable[..., Config]
ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
TASK = """
from sweeper.custom import CustomTask
class Task(CustomTask):
    def prompt(self, row): return {prompt}
    def answer(self, row): return {answer}
    def score(self, rows, predictions): return {{"score": 1.0}}
"""


def within(config: Config, folder: Path) -> Config:
    return config.model_copy(update={"study": config.study.model_copy(update={"folder": str(folder)})})


def metric(
    composed_once: Compose, folder: Path, body: str, *overrides: str, signature: str = "rows, said"
) -> own.Scorer:
    (folder / "scoring.py").write_text(f"def cost({signature}):\n    {body}\n")
    found = own.load(within(composed_once("study=demo", *(overrides or [METRIC])), folder)).metric
    assert found is not None
    return found


METRIC = "objective.metric={_target_: scoring.cost, name: cost}"


def test_numbers_come_back_by_their_names(composed_once: Compose, tmp_path: Path) -> None:
    body = "rows[0].clear(); import numpy; return {'cost': numpy.float32(0.5), 'cost_se': by, 'n': len(rows)}"
    overrides = "objective.metric={_target_: scoring.cost, name: cost, by: 0.25}"
    score = metric(composed_once, tmp_path, body, overrides, signature="rows, said, by")
    given = [dict(row) for row in ROWS]
    assert score(given, ["x", "y"]) == {"cost": 0.5, "cost_se": 0.25, "n": 2.0}
    assert given == ROWS  # what it does to its rows stays its own


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 0.5", "but returned 0.5 (float)"),
        ("return None", "but returned None (NoneType)"),
        ("return {}", "among them `cost`, which the search goes by, but returned none"),
        ("return {'other': 1}", "among them `cost`, which the search goes by, but returned other"),
        ("return {'cost': float('nan')}", "but `cost` is nan (float)"),
        ("return {'cost': True}", "but `cost` is True (bool)"),
        ("return {'cost': '1'}", "but `cost` is a text of 1 characters"),
        ("return {'cost': 1, 'a/b': 1}", "letters, digits and underscores, but got 'a/b'"),
        ("return {'cost': 1, 'examples': 1}", "must not end in _se or be one of"),
        ("return {'cost': 1, 'kind': 1}", "must not end in _se or be one of"),
        ("return {'cost': 1, 'worker': 1}", "must not end in _se or be one of"),
        ("return {'cost': 1, 'failure': 1}", "must not end in _se or be one of"),
        ("return {'cost': 1, 'other_se': 1}", "must not end in _se or be one of"),
        ("return {'cost': 1, said[0]: 1}", "the same names each time, but returned cost, y after cost, x"),
    ],
)
def test_what_else_a_metric_returns_is_refused(
    composed_once: Compose, tmp_path: Path, body: str, expected: str
) -> None:
    score = metric(composed_once, tmp_path, body)
    with pytest.raises(CustomCodeError) as caught:
        [score(ROWS, [said, said]) for said in ("x", "y")]
    assert expected in str(caught.value)
    assert f'File "{tmp_path}/scoring.py", line 1' in str(caught.value)


@pytest.mark.parametrize(
    ("signature", "overrides", "expected"),
    [
        ("rows", METRIC, "is called with (rows, predictions), but too many positional arguments"),
        ("rows, said, by", METRIC, "missing a required argument: 'by'"),
        ("rows, said", METRIC.replace("}", ", by: 1}"), "(rows, predictions, by=…), but got an unexpected"),
    ],
)
def test_another_signature_is_refused_before_it_is_called(
    composed_once: Compose, tmp_path: Path, signature: str, overrides: str, expected: str
) -> None:
    with pytest.raises(CustomCodeError, match=re.escape(expected)):
        metric(composed_once, tmp_path, "return {}", overrides, signature=signature)


def task(composed_once: Compose, folder: Path, text: str) -> tuple[Config, own.Own]:
    (folder / "own_task.py").write_text(text)
    config = within(composed_once("study=demo", "task=custom", "task._target_=own_task.Task"), folder)
    return config, own.load(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def Task(): pass", "must name a class derived from sweeper.custom.CustomTask"),
        ("class Task: pass", "must name a class derived from sweeper.custom.CustomTask"),
        (
            "from sweeper.custom import CustomTask\nclass Task(CustomTask):\n    def prompt(self, row): return ''",
            "must have `prompt`, `answer` and `score`, but lacks answer, score",
        ),
        (TASK.replace("predictions)", ")").format(prompt="1", answer="1"), "`score` of task `own_task.Task` is called"),
        (
            TASK.format(prompt="1", answer="1").replace(
                "    def prompt", "    def __init__(self, n): pass\n    def prompt"
            ),
            "missing 1 required positional argument: 'n'",
        ),
    ],
)
def test_a_class_that_is_no_task_is_refused(composed_once: Compose, tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(CustomCodeError, match=re.escape(expected)):
        task(composed_once, tmp_path, text)


def asked(composed_once: Compose, folder: Path, prompt: str, answer: str = "row['label']") -> Any:
    config, brought = task(composed_once, folder, TASK.format(prompt=prompt, answer=answer))
    return rows.of(config, None, brought)


def test_a_task_says_what_a_row_asks(composed_once: Compose, tmp_path: Path) -> None:
    data = asked(composed_once, tmp_path, "'Which? ' + row['text']", "[row['label'], '{\"a\": 1}']")
    first = data.train[0]
    assert first.text == f"Which? {first.columns['text']}"
    assert first.answers == (first.columns["label"], '{"a": 1}')  # a text is taken as it is, though it is JSON
    assert data.labels == []
    messages = "[{'role': 'system', 'content': 'Brief.'}, {'role': 'user', 'content': row['text']}]"
    first = asked(composed_once, tmp_path, messages).train[0]
    assert first.messages == (
        ("system", "Brief."),
        ("user", first.columns["text"]),
        ("assistant", first.columns["label"]),
    )


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("' '", "'a'", "prompt of task `own_task.Task` must be text, but got ' '"),
        ("3", "'a'", "prompt of task `own_task.Task` must be a list of at least 1 message, but got a number"),
        (
            "[{'role': 'assistant', 'content': 'a'}]",
            "'a'",
            "must end with the user's message, but does with assistant's",
        ),
        ("'a'", "[]", "answer of task `own_task.Task` must be a text or a list of texts, but got a list of 0"),
        ("'a'", "{'text': 'a'}", "must be a text or a list of texts, but got an object with 1 fields"),
    ],
)
def test_what_a_task_cannot_ask_is_said_with_the_row(
    composed_once: Compose, tmp_path: Path, prompt: str, answer: str, expected: str
) -> None:
    with pytest.raises(DataError, match=re.escape(expected)) as caught:
        asked(composed_once, tmp_path, prompt, answer)
    assert re.search(r"  - train:1: |train.*1: ", str(caught.value))


def test_a_task_that_raises_is_said_with_the_row_and_its_line(composed_once: Compose, tmp_path: Path) -> None:
    with pytest.raises(CustomCodeError) as caught:
        asked(composed_once, tmp_path, "row['nope']")
    first, where, *_ = str(caught.value).splitlines()
    assert re.fullmatch(r"`prompt` of task `own_task.Task` raised an exception at .*train.*1:", first)
    assert where == f'  File "{tmp_path}/own_task.py", line 4, in prompt'


def test_all_columns_are_hashed_where_code_may_read_them(
    composed_once: Compose, ticket_files: Path, tmp_path: Path
) -> None:
    """A column that nothing but the code reads makes other scores."""
    (tmp_path / "scoring.py").write_text("def cost(rows, said): return {'cost': 1}")
    file = ticket_files / "test.jsonl"
    hashes = []
    for extra in ("1", "2"):
        file.write_text(re.sub(r'("more": \d, )?"label"', f'"more": {extra}, "label"', file.read_text()))
        for overrides in ([], [METRIC, f"study.folder={tmp_path}"]):
            config = composed_once("study=demo", "data=files", f"data.path={ticket_files}", *overrides)
            hashes.append(rows.of(config, None, own.load(config)).sha256)
    assert hashes[0] == hashes[2]
    assert hashes[1] != hashes[3]
