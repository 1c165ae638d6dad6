"""What every task does, whichever it is; a task that is added is added to `CASES`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.config.teaching import METRICS, WrittenSection
from sweeper.custom import own
from sweeper.data.prompt import Conversations, renderer
from sweeper.data.row import Row
from sweeper.errors import ConfigError
from sweeper.mistakes.kept import Kept
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home
from sweeper.tasks.task import Task, task_of
from tests.conftest import random_examples, small_model
from tests.engine.oracle import TRIALS, admit, new_pack

LABELS = ["billing error", "late delivery", "refund"]
ANSWERS = ["Return the mean of the values.", "Close the file and forget it.", "Read one line, or nothing at all."]
WRITTEN = ["task.max_new_tokens=5", "data.columns.prompt=text", "data.columns.answer=label"]


@dataclass(frozen=True)
class Case:
    """A task: how a study says it, its rows, what is right for each, and what is wrong for all."""

    overrides: tuple[str, ...]
    rows: list[Row]
    right: list[str]
    wrong: str


def _written(overrides: list[str]) -> Case:
    rows = [Row(f"ask {n}", "", f"train:{n}", answers=(ANSWERS[n % 3], "another one")) for n in range(24)]
    return Case(tuple(overrides), rows, [row.answers[0] for row in rows], "Zebras gallop quickly across dry plains.")


CASES = {
    "classification": Case(
        ("task=classification",),
        [Row(f"ask {n}", LABELS[n % 3], f"train:{n}") for n in range(24)],
        [LABELS[n % 3] for n in range(24)],
        LABELS[1],
    ),
    "generation": _written(["task=generation", *WRITTEN]),
    "comments": _written(["task=comments", *WRITTEN]),
    "custom": Case(
        ("task=custom", "task.max_new_tokens=5", "task._target_=tests.custom.samples.Echo"),
        [
            Row("ask", "", f"train:{n}", {"text": "ask", "label": LABELS[n % 3]}, (f"label {LABELS[n % 3]}",))
            for n in range(24)
        ],
        [f"label {LABELS[n % 3]}" for n in range(24)],
        "label none",
    ),
}
Make = Callable[[str], tuple[Task, Config]]
every_task = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def make(composed_once: Callable[..., Config], home: Home) -> Make:
    """A task as a worker makes it, and its configuration."""

    def made(name: str) -> tuple[Task, Config]:
        config = composed_once("study=demo", *CASES[name].overrides)
        rendered = renderer(config, load_tokenizer(config.model, home), LABELS)
        return task_of(config.task, rendered, own.load(config).task), config

    return made


def test_every_task_is_here() -> None:
    assert set(CASES) == set(METRICS)


@every_task
def test_slots_together_predict_what_each_does_alone(make: Make, home: Home, name: str) -> None:
    task, config = make(name)
    model = small_model(vocab_size=2048)
    for parameter in model.parameters():  # or every row would get the same
        parameter.data.mul_(6.0) if parameter.dim() > 1 else None
    pack = new_pack(model, random_examples(20))
    for number, params in enumerate(TRIALS[:3]):
        admit(pack, number, params)
    for _ in range(3):
        pack.tick()
    prompts = [example.prompt for example in random_examples(7, seed=3)]
    together = task.predict(pack, [2, 0, 1], prompts)
    assert [len(texts) for texts in together] == [7, 7, 7]
    for slot, predicted in zip((2, 0, 1), together, strict=True):
        [alone] = task.predict(pack, [slot], prompts)
        assert [one.text for one in predicted] == [one.text for one in alone]
        assert [one.confidence for one in predicted] == pytest.approx([one.confidence for one in alone])
    [of_base] = task.predict(pack, [0], prompts, with_adapters=False)
    texts = {one.text for predicted in (*together, of_base) for one in predicted}
    assert len(texts) > 1
    if task.labels:
        assert texts <= set(task.labels)
        assert task.room_tokens is None
    else:
        assert task.room_tokens == 5
        wordy = load_tokenizer(config.model, home)
        # Tokens that do not make whole letters are written as one replacement, so the text may have fewer.
        assert all(len(wordy(text)["input_ids"]) <= 5 * 3 for text in texts)


@every_task
def test_right_predictions_score_one_and_wrong_ones_less(make: Make, name: str) -> None:
    task, case = make(name)[0], CASES[name]
    perfect = task.score(case.rows, case.right).as_dict()
    mixed = task.score(case.rows, [*case.right[:12], *[case.wrong] * 12]).as_dict()
    metrics = METRICS[name] or ("score",)
    assert {key for key in perfect if not key.endswith("_se")} == set(metrics)
    assert perfect.keys() == mixed.keys()
    for metric in metrics:
        assert perfect[metric] == pytest.approx(1.0)
        assert 0 < mixed[metric] < 1
        if METRICS[name]:  # what a user's class gives is the user's
            assert 0 <= perfect[f"{metric}_se"] < 0.2
            assert 0 < mixed[f"{metric}_se"] < 0.2


@every_task
def test_the_order_of_rows_does_not_matter(make: Make, name: str) -> None:
    task, case = make(name)[0], CASES[name]
    predictions = [*case.right[:10], *[case.wrong] * 14]
    order = random.Random(0).sample(range(24), 24)
    one = task.score(case.rows, predictions).as_dict()
    other = task.score([case.rows[n] for n in order], [predictions[n] for n in order]).as_dict()
    for key, value in one.items():  # errors are drawn, and known to 4 %
        assert other[key] == pytest.approx(value, rel=0.2 if key.endswith("_se") else 1e-12)


@every_task
def test_what_is_kept_of_a_row_says_whether_it_is_right_and_has_no_text_of_it(make: Make, name: str) -> None:
    task, case = make(name)[0], CASES[name]
    for said, is_correct in ((case.right[0], True), (case.wrong, False)):
        judged = task.judged(case.rows[0], said)
        kept = Kept(row="train:1", sha256="0", tokens=3, prediction=said, **judged)
        assert kept.is_correct is is_correct
        assert (kept.truth in task.labels) if task.labels else kept.token_f1 is not None
        assert not any(answer in str(judged) for answer in case.rows[0].answers)


@every_task
def test_a_search_may_go_by_its_metrics_and_by_no_other(
    make: Make, composed_once: Callable[..., Config], name: str
) -> None:
    config = make(name)[1]
    values: dict[str, Any] = config.model_dump(mode="json")
    if not METRICS[name]:  # whatever the class returns
        return
    assert config.objective.metric in METRICS[name]
    for metric in METRICS[name]:
        values["objective"]["metric"] = metric
        assert check.check(values).objective.metric == metric
    values["objective"]["metric"] = "bleurt"
    with pytest.raises(ConfigError, match=f"objective.metric: must be {' or '.join(METRICS[name])}"):
        check.check(values)


@every_task
def test_its_prompt_is_rendered_by_what_it_is(make: Make, home: Home, name: str) -> None:
    config = make(name)[1]
    rendered = renderer(config, load_tokenizer(config.model, home), LABELS)
    assert isinstance(rendered, Conversations) == isinstance(config.task, WrittenSection)
